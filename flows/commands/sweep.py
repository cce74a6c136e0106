"""`nanbeige sweep`: plan, run and read a sweep."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.completion import complete_sweep
from flows.console import (
    FileOption,
    JsonOption,
    PortOption,
    SetOption,
    StoreOption,
    console,
    open_store,
    print_rows,
)
from flows.parameters import RECIPE_FILE
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.recipe.configs.sweep import REPORT
from nanbeige_core.recipe.sweep_plan import SweepPlan, plan_sweep
from nanbeige_core.report.sweep_rows import describe_sharing, sweep_rows


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sweep)


def sweep(
    name: Annotated[str, typer.Argument(help="A sweep of the recipe file.", autocompletion=complete_sweep)],
    plan: Annotated[bool, typer.Option("--plan", help="Show the stages its arms share and stop.")] = False,
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    port: PortOption = 0,
    cores: Annotated[int, typer.Option("--cores", min=0, help="At most so many cores; 0: as the profile says.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run every arm of a sweep under every seed and compare them; what arms share is made once."""
    made = plan_sweep(file, name, open_store(store), overrides)
    if plan:
        _print_plan(made, as_json=as_json)
        return
    if not as_json:
        console.print(describe_sharing(made))
    address = _run(name, overrides, file, store, port, cores=cores, as_json=as_json)
    _print_report(open_store(store).resolve(address), store, as_json=as_json)


def _run(name: str, overrides: list[str], file: Path, store: str, port: int, *, cores: int, as_json: bool) -> str:
    """Run the sweep flow and return the address of its report; the report is printed before a failure is raised."""
    from flows.server import prefect_server

    with prefect_server(port or None):
        from flows.sweep import ArmsFailedError
        from flows.sweep import sweep as sweep_flow

        try:
            return sweep_flow(sweep=name, overrides=overrides, cores=cores, file=str(file), store=store)
        except ArmsFailedError as error:
            _print_report(open_store(store).resolve(error.report), store, as_json=as_json)
            raise


def _print_plan(made: SweepPlan, *, as_json: bool) -> None:
    rows = sweep_rows(made)
    if as_json:
        runs = [{"arm": run.arm, "seed": run.seed} for run in made.runs]
        print(json.dumps({"sweep": made.name, "runs": runs, "stages": rows}, indent=1))
        return
    print_rows(rows, f"{made.name}: {made.entry.title}")
    console.print(describe_sharing(made))


def _print_report(manifest: Manifest, store: str, *, as_json: bool) -> None:
    path = open_store(store).local_path(manifest)
    if as_json:
        print((path / REPORT).read_text(encoding="utf-8"))
        return
    for section in manifest.outcome.sections:
        console.rule(escape(section.title))
        if section.text:
            console.print(escape(section.text))
        print_rows(section.table, "")
    console.print(escape(manifest.outcome.summary), style="bold")
    console.print(escape(f"{manifest.reference.address}   {path / 'report.html'}"))
