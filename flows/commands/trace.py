"""`nanbeige trace`: where an artifact or a row comes from, and where it went."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from flows.console import JsonOption, StoreOption, console, open_store, print_rows
from nanbeige_core.errors import RecipeError

if TYPE_CHECKING:
    from nanbeige_core.lineage.forward import Found, Trained
    from nanbeige_core.lineage.history import ModelStep
    from nanbeige_core.lineage.tables import Row
    from nanbeige_core.lineage.trace import ArtifactTrace, RowTrace, Trace

_SHOWN_CHARACTERS = 400


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("trace")(trace_command)


def trace_command(
    target: Annotated[
        str,
        typer.Argument(
            help="An artifact (rl_stem, rl_stem/f26b), a row of one (rl_stem#12/PROMPT/0), or a row id: document, "
            "problem, sample, pair."
        ),
    ] = "",
    text: Annotated[str, typer.Option("--text", help="Find rows by a piece of their text; one hit is traced.")] = "",
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Write every row behind a checkpoint to FILE (.parquet or .csv).")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most rows to trace or find.")] = 3,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Say where something comes from and where it went, row by row: reward, problem, checkpoint, documents."""
    if bool(target) == bool(text):
        raise RecipeError("trace needs a target or --text PIECE, one of the two; for example: nanbeige trace rl_stem")
    from nanbeige_core.lineage.plain import plain_trace  # here: Arrow would slow the start of every command
    from nanbeige_core.lineage.trace import find_text, trace

    opened = open_store(store)
    if text:
        hits = find_text(opened, text, limit=limit)
        if len(hits) > 1:
            _show_hits(hits, as_json)
            return
        target = hits[0].address
    found = trace(opened, target, limit=limit)
    if rows is not None:
        _write(found, rows)
    if as_json:
        print(json.dumps(plain_trace(found), indent=1, ensure_ascii=False))
        return
    if found.artifact is not None:
        _show_artifact(found.artifact)
    for one in found.rows:
        _show_row(one)


def _write(found: "Trace", file: Path) -> None:
    from nanbeige_core.lineage.plain import write_rows_behind

    view = found.artifact.view if found.artifact is not None else None
    if view is None and found.rows and (writers := found.rows[0].row.writers()):
        view = writers[0]
    if view is None or not view.holds_weights:
        raise RecipeError(
            "--rows writes what a model was trained on, and the target is no checkpoint and was written by none; "
            "give a checkpoint, for example: nanbeige trace rl_stem --rows documents.parquet"
        )
    count = write_rows_behind(view, file)
    console.print(escape(f"{count:,} rows behind {view.address} written to {file}"))


def _show_hits(hits: "list[Row]", as_json: bool) -> None:
    if as_json:
        from nanbeige_core.lineage.plain import plain_row

        print(json.dumps({"hits": [plain_row(row) for row in hits]}, indent=1, ensure_ascii=False))
        return
    print_rows([_line(row) for row in hits], f"{len(hits)} rows hold this text; trace one of them by its id")


def _line(row: "Row") -> dict[str, Any]:
    return {"artifact": row.view.address, "what": row.table.what, "row": row.id, "says": row.says}


def _show_artifact(found: "ArtifactTrace") -> None:
    manifest = found.view.manifest
    console.print(f"[bold]{found.view.address}[/bold]  {manifest.kind.value}")
    console.print(escape(manifest.outcome.summary))
    made_from = [{"artifact": one.address, "type": one.manifest.kind.value} for one in found.ancestors]
    print_rows(made_from, "made from, the first first")
    _show_history(list(found.history))
    made_into = [{"artifact": one.address, "type": one.manifest.kind.value} for one in found.descendants]
    print_rows(made_into, "made into")


def _show_row(found: "RowTrace") -> None:
    row = found.row
    console.print(f"[bold]{escape(row.address)}[/bold]  {row.table.what}")
    console.print(escape(row.says))
    for name, words in row.texts().items():
        console.print(escape(f"{name}: {_short(words)}"))
    if len(found.siblings) > 1:
        mean = sum(found.siblings) / len(found.siblings)
        console.print(f"drawn together with it: {len(found.siblings)} rows, mean value {mean:.3f}")
    print_rows([_line(one) for one in found.before], "made from, the nearest first")
    problem = next((one for one in found.before if one.table.what == "problem"), None)
    if problem is not None:
        console.print(escape(f"problem: {_short(problem.texts().get('prompt', ''))}"))
    for address, steps in found.writers.items():
        console.print(f"written by [bold]{address}[/bold]")
        _show_history(steps)
    kin = [{"checkpoint": one.artifact, "rows": one.rows, "what": one.what} for one in found.kin]
    print_rows(kin, f"trained on the same kind of problem ({found.family})")
    _show_forward(found)


def _show_forward(found: "RowTrace") -> None:
    print_rows([line for one in found.forward.found for line in _found_lines(one)], "became")
    print_rows([line for one in found.forward.trained for line in _trained_lines(one)], "trained on")
    carriers = [
        {"model": one.artifact, "how": one.how, "": "in its weights" if one.direct else "at second hand"}
        for one in found.forward.models
    ]
    print_rows(carriers, "models that carry it")
    if found.forward.trained and not carriers:
        console.print("no model was trained on it")


def _found_lines(one: "Found") -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [
        {"artifact": one.artifact, "what": row.table.what, "row": row.id, "says": row.says} for row in one.examples
    ]
    left = one.rows - len(lines)
    if left > 0:
        mean = f"; mean value of all {one.rows}: {one.mean:.3f}" if one.mean is not None else ""
        lines.append({"artifact": one.artifact, "what": one.what, "row": "", "says": f"and {left} more{mean}"})
    return lines


def _trained_lines(one: "Trained") -> list[dict[str, Any]]:
    if not one.uses:
        return [{"checkpoint": one.artifact, "when": one.missing or "in its data, but no step drew it"}]
    shown = [
        {
            "checkpoint": one.artifact,
            "when": _when(use.times, use.first_step, use.last_step),
            "row": use.id,
            "note": use.note,
        }
        for use in one.uses[:10]
    ]
    left = len(one.uses) - len(shown)
    return [*shown, *([{"checkpoint": one.artifact, "when": f"and {left} more rows"}] if left else [])]


def _when(times: int, first: int, last: int) -> str:
    if not times:
        return "never"
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return f"{steps}, {'once' if times == 1 else f'{times} times'}"


def _show_history(steps: "list[ModelStep]") -> None:
    lines: list[dict[str, Any]] = []
    for step in steps:
        if step.adopted or not step.trained_on:
            note = "adopted: its history is not in this store" if step.adopted else "its weights are handed on"
            lines.append({"checkpoint": step.artifact, "note": note})
        for trained in step.trained_on:
            lines.append(
                {
                    "checkpoint": step.artifact,
                    "steps": step.steps,
                    "trained on": trained.artifact,
                    "rows": f"{trained.rows:,} {trained.what}",
                    "tokens": f"{sum(int(str(group['tokens'])) for group in trained.groups):,}"
                    if trained.groups
                    else "",
                    "also shaped by": ", ".join(step.shaped_by),
                    "note": trained.missing or (f"{trained.left_out} without a gradient" if trained.left_out else ""),
                }
            )
    print_rows(lines, "what its weights were trained on, the last first")


def _short(words: str) -> str:
    return words if len(words) <= _SHOWN_CHARACTERS else words[:_SHOWN_CHARACTERS] + " ..."
