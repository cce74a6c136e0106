"""The `nanbeige` command: plan, run, look.

`plan`, `ls` and `show` need no server and import no Prefect. Exit status: 0 done, 1 a stage failed, 2 the request
or the recipe is wrong.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.parameters import ALL, RECIPE_FILE
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError, RecipeError, StageError
from nanbeige_core.recipe.load import load_profile_names, load_recipe
from nanbeige_core.recipe.plan import Plan, Selection, make_plan
from nanbeige_core.report.plan_report import plan_rows
from nanbeige_core.report.run_report import summary_rows
from nanbeige_core.report.stage_report import describe_gain

app = typer.Typer(
    help="Run the Nanbeige4-3B recipe, or any part of it, from pipelines.yaml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 160)
_STYLES = {"HIT": "green", "RUN": "yellow", "RESUME": "cyan", "SKIP": "dim"}

ProfileOption = Annotated[str, typer.Option("--profile", "-p", help="laptop, ablation-1b or nanbeige4-3b.")]
FromOption = Annotated[str, typer.Option("--from", help="Run this stage and all that depend on it.")]
OnlyOption = Annotated[str, typer.Option("--only", help="Run this one stage from cached upstream artifacts.")]
UntilOption = Annotated[str, typer.Option("--until", help="Run this stage and all it depends on.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make the selected stages again though they are there.")]
SetOption = Annotated[list[str], typer.Option("--set", help="stage.field=value, e.g. dpd.beta=0.2; repeatable.")]
FileOption = Annotated[Path, typer.Option("--file", help="The recipe file.")]
StoreOption = Annotated[str, typer.Option("--store", help="Folder or fsspec URL of the artifacts.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PortOption = Annotated[int, typer.Option("--port", help="Port of the Prefect server; 0: 4200 or a free one.")]


@app.command()
def plan(
    profile: ProfileOption = "laptop",
    start: FromOption = "",
    only: OnlyOption = "",
    until: UntilOption = "",
    force: ForceOption = False,
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what would run, what would be reused, and why. Needs no server and changes nothing."""
    made = _plan(file, profile, overrides, store, Selection(start or None, only or None, until or None, force))
    if as_json:
        print(json.dumps(plan_rows(made), indent=1))
        return
    _print_plan(made)


@app.command()
def run(
    profile: ProfileOption = "laptop",
    start: FromOption = "",
    only: OnlyOption = "",
    until: UntilOption = "",
    force: ForceOption = False,
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    port: PortOption = 0,
) -> None:
    """Run the recipe through Prefect; a server is started if none is configured, and stopped afterwards."""
    selection = Selection(start or None, only or None, until or None, force)
    made = _plan(file, profile, overrides, store, selection)
    _print_plan(made)
    from flows.server import prefect_server

    with prefect_server(port or None) as url:
        console.print(f"Prefect UI: {url.removesuffix('/api')}/v2/dashboard", highlight=False)
        from flows.pipeline import recipe

        recipe(
            profile=profile,
            start_from=start or ALL,
            until=until or ALL,
            only=only or ALL,
            force=force,
            overrides=overrides,
            file=str(file),
            store=store,
        )
    _print_summary(_plan(file, profile, overrides, store, Selection()), made, store)


@app.command()
def sweep(
    name: Annotated[str, typer.Argument(help="A sweep of the recipe file.")],
    overrides: SetOption = [],  # noqa: B006
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    port: PortOption = 0,
) -> None:
    """Run every arm of a sweep; what arms share is made once."""
    from flows.server import prefect_server

    with prefect_server(port or None):
        from flows.sweep import sweep as sweep_flow

        rows = sweep_flow(sweep=name, overrides=overrides, file=str(file), store=store)
    _print_rows(rows, f"sweep {name}")


@app.command()
def up(store: StoreOption = "store", port: PortOption = 0) -> None:
    """Start the Prefect server and serve the deployments, so that runs can be triggered from the UI. Ctrl-C stops."""
    from flows.server import start_server

    with start_server(port or None) as url:
        console.print(f"Prefect UI: {url.removesuffix('/api')}/v2/deployments   (Ctrl-C stops)", highlight=False)
        from flows.deployments import serve_deployments

        serve_deployments(store)


@app.command()
def ls(
    stage: Annotated[str, typer.Argument(help="Only this stage.")] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """List the artifacts in the store, newest first."""
    rows = [_row(manifest) for manifest in _store(store).manifests(stage or None)]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    _print_rows(rows, f"{len(rows)} artifacts in {store}")


@app.command()
def show(
    artifact: Annotated[str, typer.Argument(help="A stage name, stage/prefix, or a fingerprint prefix.")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what an artifact is, what it was made from, and what its stage reported."""
    opened = _store(store)
    manifest = opened.resolve(artifact)
    if as_json:
        print(manifest.model_dump_json(indent=1))
        return
    console.print(f"[bold]{manifest.reference.address}[/bold]  {manifest.kind}  {manifest.bytes / 1e6:.1f} MB")
    console.print(escape(f"{opened.local_path(manifest)}"))
    console.print(escape(manifest.outcome.summary))
    if manifest.outcome.gain:
        console.print(escape(describe_gain(manifest.outcome.gain)), style="green")
    _print_rows([{"input": name, "artifact": ref.address} for name, ref in manifest.inputs.items()], "inputs")
    _print_rows([{"field": key, "value": value} for key, value in manifest.identity["config"].items()], "config")
    numbers = {**manifest.outcome.counts, **manifest.outcome.metrics}
    _print_rows([{"name": key, "value": value} for key, value in numbers.items()], "numbers")
    for section in manifest.outcome.sections:
        console.rule(escape(section.title))
        if section.text:
            console.print(escape(section.text))
        _print_rows(section.table, "")


@app.command()
def verify(store: StoreOption = "store") -> None:
    """Hash every file of every artifact again and report what differs from its manifest."""
    opened = _store(store)
    damaged = {m.reference.address: files for m in opened.manifests() if (files := opened.verify(m))}
    for address, files in damaged.items():
        console.print(f"[red]{address}[/red]: {', '.join(files)}")
    console.print(f"{len(opened.manifests()) - len(damaged)} artifacts are as recorded, {len(damaged)} are not")
    if damaged:
        raise typer.Exit(1)


@app.command()
def profiles(file: FileOption = RECIPE_FILE) -> None:
    """List the profiles of the recipe file."""
    _print_rows([{"profile": name, "for": entry.title} for name, entry in load_profile_names(file).items()], "")


def _store(url: str) -> Store:
    local = Path(url) if "://" not in url else Path("store")
    return Store(url, (local / ".cache").absolute())


def _plan(file: Path, profile: str, overrides: list[str], store: str, selection: Selection) -> Plan:
    return make_plan(load_recipe(file, profile=profile, overrides=overrides), _store(store), selection)


def _row(manifest: Manifest) -> dict[str, Any]:
    return {
        "artifact": manifest.reference.address,
        "type": manifest.kind.value,
        "made": manifest.started[:19].replace("T", " "),
        "seconds": round(manifest.seconds, 1),
        "MB": round(manifest.bytes / 1e6, 1),
        "before -> after": describe_gain(manifest.outcome.gain) if manifest.outcome.gain else "",
    }


def _print_plan(made: Plan) -> None:
    table = Table(title=f"{made.recipe.file.recipe} · profile {made.recipe.profile}", title_justify="left")
    for column in ("stage", "action", "artifact", "why"):
        table.add_column(column, overflow="fold")
    for row in plan_rows(made):
        style = _STYLES[row["action"]]
        table.add_row(row["stage"], f"[{style}]{row['action']}[/{style}]", row["artifact"], escape(row["why"]))
    console.print(table)
    console.print(f"{len(made.to_run)} of {len(made.stages)} stages to run")


def _print_summary(now: Plan, before: Plan, store: str) -> None:
    opened = _store(store)
    manifests = {p.name: opened.open(p.reference)[0] for p in now.stages.values() if p.reference is not None}
    executed = [planned.name for planned in before.to_run]
    _print_rows(summary_rows(now, manifests, executed), "summary")


def _print_rows(rows: list[dict[str, Any]], title: str) -> None:
    if not rows:
        return
    table = Table(title=title or None, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(row.get(column, ""))) for column in columns))
    console.print(table)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _fail(message: str, status: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


def main() -> None:
    """Run the command line; every expected failure is one clear message and an exit status."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    try:
        app()
    except RecipeError as error:
        _fail(str(error), 2)
    except (ArtifactError, StageError) as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("interrupted; finished stages are kept, run the same command again to go on", 130)


if __name__ == "__main__":
    main()
