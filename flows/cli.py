"""The `nanbeige` command: plan, run, look.

`plan`, `ls` and `show` need no server and import no Prefect. Exit status: 0 done, 1 a stage failed, 2 the request
or the recipe is wrong.
"""

import json
import os
import sys
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from flows.commands import sweep
from flows.console import (
    FileOption,
    ForceOption,
    FromOption,
    JsonOption,
    OnlyOption,
    PortOption,
    ProfileOption,
    SetOption,
    StoreOption,
    UntilOption,
    artifact_row,
    console,
    open_store,
    plan_recipe,
    print_plan,
    print_rows,
    print_summary,
)
from flows.parameters import ALL, RECIPE_FILE
from nanbeige_core.errors import ArtifactError, RecipeError, StageError
from nanbeige_core.recipe.load import load_profile_names
from nanbeige_core.recipe.plan import Selection
from nanbeige_core.report.plan_report import plan_rows
from nanbeige_core.report.stage_report import describe_gain

app = typer.Typer(
    help="Run the Nanbeige4-3B recipe, or any part of it, from pipelines.yaml.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
sweep.register(app)


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
    made = plan_recipe(file, profile, overrides, store, Selection(start or None, only or None, until or None, force))
    if as_json:
        print(json.dumps(plan_rows(made), indent=1))
        return
    print_plan(made)


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
    made = plan_recipe(file, profile, overrides, store, selection)
    print_plan(made)
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
    print_summary(plan_recipe(file, profile, overrides, store, Selection()), made, store)


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
    rows = [artifact_row(manifest) for manifest in open_store(store).manifests(stage or None)]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    print_rows(rows, f"{len(rows)} artifacts in {store}")


@app.command()
def show(
    artifact: Annotated[str, typer.Argument(help="A stage name, stage/prefix, or a fingerprint prefix.")],
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what an artifact is, what it was made from, and what its stage reported."""
    opened = open_store(store)
    manifest = opened.resolve(artifact)
    if as_json:
        print(manifest.model_dump_json(indent=1))
        return
    console.print(f"[bold]{manifest.reference.address}[/bold]  {manifest.kind}  {manifest.bytes / 1e6:.1f} MB")
    console.print(escape(f"{opened.local_path(manifest)}"))
    console.print(escape(manifest.outcome.summary))
    if manifest.outcome.gain:
        console.print(escape(describe_gain(manifest.outcome.gain)), style="green")
    print_rows([{"input": name, "artifact": ref.address} for name, ref in manifest.inputs.items()], "inputs")
    print_rows([{"field": key, "value": value} for key, value in manifest.identity["config"].items()], "config")
    numbers = {**manifest.outcome.counts, **manifest.outcome.metrics}
    print_rows([{"name": key, "value": value} for key, value in numbers.items()], "numbers")
    for section in manifest.outcome.sections:
        console.rule(escape(section.title))
        if section.text:
            console.print(escape(section.text))
        print_rows(section.table, "")


@app.command()
def verify(store: StoreOption = "store") -> None:
    """Hash every file of every artifact again and report what differs from its manifest."""
    opened = open_store(store)
    damaged = {m.reference.address: files for m in opened.manifests() if (files := opened.verify(m))}
    for address, files in damaged.items():
        console.print(f"[red]{address}[/red]: {', '.join(files)}")
    console.print(f"{len(opened.manifests()) - len(damaged)} artifacts are as recorded, {len(damaged)} are not")
    if damaged:
        raise typer.Exit(1)


@app.command()
def profiles(file: FileOption = RECIPE_FILE) -> None:
    """List the profiles of the recipe file."""
    print_rows([{"profile": name, "for": entry.title} for name, entry in load_profile_names(file).items()], "")


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
