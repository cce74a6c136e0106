"""`nanbeige diff A B`: two artifacts side by side."""

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from flows.console import JsonOption, StoreOption, console, open_store, print_rows

if TYPE_CHECKING:
    from nanbeige_core.lineage.diff import Diff, Paired, SamplePair

_ARTIFACT = "A stage name, stage/prefix, or a fingerprint prefix."
_SHOWN_CHARACTERS = 500


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff_command)


def diff_command(
    a: Annotated[str, typer.Argument(help=_ARTIFACT)],
    b: Annotated[str, typer.Argument(help=_ARTIFACT)],
    samples: Annotated[int, typer.Option("--samples", min=0, help="Prompts to show with both outputs.")] = 3,
    everything: Annotated[bool, typer.Option("--all", help="Show numbers that are equal, too.")] = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Put two artifacts side by side: config, inputs, numbers, paired differences with intervals, and samples."""
    from nanbeige_core.lineage.diff import diff  # here: SciPy and Arrow would slow the start of every command

    found = diff(open_store(store), a, b, samples=samples)
    if as_json:
        print(json.dumps(_plain(found), indent=1, ensure_ascii=False))
        return
    _show(found, everything)


def _plain(found: "Diff") -> dict[str, Any]:
    paired = [{**asdict(one), "verdict": one.verdict} for one in found.paired]
    # infinity (one problem alone has no interval) is not JSON
    finite = [
        {key: None if isinstance(value, float) and math.isinf(value) else value for key, value in one.items()}
        for one in paired
    ]
    return {**asdict(found), "paired": finite}


def _show(found: "Diff", everything: bool) -> None:
    console.print(f"a: [bold]{found.a}[/bold]\nb: [bold]{found.b}[/bold]")
    if found.a == found.b:
        console.print("both are the same artifact")
    print_rows([asdict(one) for one in found.config], "config that differs")
    print_rows([asdict(one) for one in found.inputs], "inputs that differ")
    if not found.config and not found.inputs:
        console.print("config and inputs are the same")
    numbers = [one for one in found.numbers if everything or one.difference != 0]
    print_rows([{key: _or_empty(value) for key, value in asdict(one).items()} for one in numbers], "numbers")
    paired = [one for one in found.paired if everything or one.low != one.high or one.difference != 0]
    print_rows([_paired_line(one) for one in paired], "paired by problem, b - a")
    if len(paired) > 1:
        console.print(
            f"{len(paired)} intervals of 95 %: about one in twenty misses by chance, so one alone says little"
        )
    if found.paired and not paired:
        console.print("paired by problem: no difference on any problem")
    if not found.paired:
        console.print(
            "no paired difference: these artifacts keep no per-problem records in common; compare the `evaluate` "
            "artifacts made from them"
        )
    for pair in found.samples:
        _show_pair(pair)


def _paired_line(one: "Paired") -> dict[str, Any]:
    line = asdict(one)
    interval = f"[{line.pop('low'):+.4f}, {line.pop('high'):+.4f}]"
    return {**line, "95 % interval": interval, "": one.verdict}


def _show_pair(pair: "SamplePair") -> None:
    console.rule(escape(" · ".join(part for part in (pair.group, pair.subject) if part)))
    if pair.prompt:
        console.print(escape(f"prompt: {_short(pair.prompt)}"))
    print_rows([{"a": _short(pair.a), "b": _short(pair.b)}, {"a": pair.a_says, "b": pair.b_says}], "")


def _or_empty(value: Any) -> Any:
    return "" if value is None else value


def _short(words: str) -> str:
    return words if len(words) <= _SHOWN_CHARACTERS else words[:_SHOWN_CHARACTERS] + " ..."
