"""`nanbeige parity`: one model in every parallel layout, and what differs between the CPU and the CUDA path."""

from typing import Any

import typer
from rich.markup import escape

from flows.console import JsonOption, console, print_json, print_rows


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("parity")(parity_command)


def parity_command(as_json: JsonOption = False) -> None:
    """Train a small model for three steps in every parallel layout and compare losses and gradients with one rank's.

    Needs four processes at most, and a minute or two. Exit status 1 when a layout differs by more than the tolerance.
    """
    from nanbeige_core.megatron import device, parity

    rows, refused, differences = parity.run_parity(), parity.refused_layouts(), device.differences()
    if as_json:
        print_json({"layouts": rows, "refused": refused, "differences": differences})
    else:
        print_rows([_shown(row) for row in rows], "same model, other layouts: relative differences from the first row")
        console.print(
            f"same: losses within {parity.LOSS_TOLERANCE:g}, every weight's gradient and the gradient norm within "
            f"{parity.GRADIENT_TOLERANCE:g}; the distributed optimizer is on in all layouts"
        )
        for row in refused:
            console.print(escape(f"{row['layout']} is refused: {row['refused']}"))
        print_rows([dict(row) for row in differences], "what differs between the CPU and the CUDA path")
    if not all(row["same"] for row in rows):
        raise typer.Exit(1)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.3g}" if "difference" in name else value for name, value in row.items()}
