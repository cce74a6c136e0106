"""The `nanbeige` command: plan, run, look.

`plan`, `ls` and `show` need no server and import no Prefect. What an exit status says is in `flows/exit_codes.py`.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from flows.commands import adopt as adopt_module
from flows.commands import dedup as dedup_module
from flows.commands import deploy, doctor, keep, parity, price, reference, report, rescore, sweep
from flows.commands import diff as diff_module
from flows.commands import retrieve as retrieve_module
from flows.commands import trace as trace_module
from flows.commands import verify as verify_module
from flows.commands.inspection import print_inspection, write_inspection
from flows.commands.plot import PlotOption, plot_recipe
from flows.completion import complete_stage
from flows.console import (
    ArtifactArgument,
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
    priced_rows,
    print_json,
    print_plan,
    print_rows,
    print_summary,
    words_aside,
)
from flows.exit_codes import ExitCode, exit_code_table
from flows.parameters import ALL, RECIPE_FILE
from nanbeige_core.errors import ArtifactError, RecipeError, StageError, StageInterruptedError
from nanbeige_core.recipe.load import load_profile_names
from nanbeige_core.recipe.plan import Selection, make_plan
from nanbeige_core.report.stage_report import describe_gain

app = typer.Typer(
    help="Run the Nanbeige4-3B recipe, or any part of it, from pipelines.yaml.",
    epilog=f"Exit status:\n\n{exit_code_table()}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
price.register(app)
trace_module.register(app)
diff_module.register(app)
dedup_module.register(app)
retrieve_module.register(app)
adopt_module.register(app)
sweep.register(app)
parity.register(app)


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
    plot: PlotOption = None,
) -> None:
    """Show what would run, what would be reused, and why. Needs no server and changes nothing."""
    made = plan_recipe(file, profile, overrides, store, Selection(start or None, only or None, until or None, force))
    if as_json:
        print_json(priced_rows(made, store))
        return
    print_plan(made, store)
    if plot is not None:
        plot_recipe(made.recipe, plot)


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
    as_json: JsonOption = False,
) -> None:
    """Run the recipe through Prefect; a server is started if none is configured, and stopped afterwards."""
    selection = Selection(start or None, only or None, until or None, force)
    with words_aside(as_json):
        made = plan_recipe(file, profile, overrides, store, selection)
        print_plan(made, store)
        from flows.server import prefect_server

        with prefect_server(port or None) as url:
            console.print(f"Prefect UI: {url.removesuffix('/api')}/v2/dashboard", highlight=False)
            from flows.pipeline import recipe

            executed = recipe(
                profile=profile,
                start_from=start or ALL,
                until=until or ALL,
                only=only or ALL,
                force=force,
                overrides=overrides,
                file=str(file),
                store=store,
            )
        rows = print_summary(make_plan(made.recipe, open_store(store), Selection()), made, store)
    if as_json:
        print_json({"plan": priced_rows(made, store), "executed": executed, "stages": rows})


@app.command()
def up(
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    port: PortOption = 0,
    cores: Annotated[int, typer.Option("--cores", min=0, help="Cores all runs share; 0: those of this machine.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Start Prefect's server, a worker and the deployments, so that runs start from the UI. Ctrl-C stops."""
    from flows.service import serve

    serve(
        file=file,
        store=store,
        port=port or None,
        cores=cores or None,
        say=_say_json if as_json else lambda text: console.print(text, highlight=False, soft_wrap=True),
    )


@app.command()
def ls(
    stage: Annotated[str, typer.Argument(help="Only this stage.", autocompletion=complete_stage)] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """List the artifacts in the store, newest first."""
    rows = [artifact_row(manifest) for manifest in open_store(store).manifests(stage or None)]
    if as_json:
        print_json(rows)
        return
    print_rows(rows, f"{len(rows)} artifacts in {store}")


@app.command()
def show(
    artifact: ArtifactArgument,
    store: StoreOption = "store",
    examples: Annotated[int, typer.Option(min=0, help="Examples of each quality decile or kind.")] = 10,
    page: Annotated[Path | None, typer.Option("--html", help="Write the artifact's page with plots.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what an artifact is, what it was made from, what its stage reported, and what is inside."""
    opened = open_store(store)
    manifest = opened.resolve(artifact)
    if page is not None:
        write_inspection(opened, manifest, examples, page)
        return
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
    print_inspection(opened, manifest, examples)


@app.command()
def profiles(file: FileOption = RECIPE_FILE, as_json: JsonOption = False) -> None:
    """List the profiles of the recipe file."""
    rows = [
        {"profile": name, "for": entry.title, "cores": entry.cores} for name, entry in load_profile_names(file).items()
    ]
    if as_json:
        print_json(rows)
        return
    print_rows(rows, "")


for command in (deploy, verify_module, keep, doctor, reference, report, rescore):
    command.register(app)


def _say_json(text: str) -> None:
    print(json.dumps({"message": text}), flush=True)


def _fail(message: str, status: ExitCode) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    if "--json" in sys.argv[1:]:
        print_json({"error": message, "exit_status": status.value})
    sys.stdout.flush()
    sys.exit(status)


class Terminated(BaseException):
    """Report SIGTERM once whatever runs has had its turn to stop."""


def _terminated(number: int, frame: object) -> NoReturn:
    raise Terminated


def main() -> None:
    """Run the command line; every expected failure is one clear message and an exit status."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except RecipeError as error:
        _fail(str(error), ExitCode.WRONG_REQUEST)
    except StageInterruptedError as error:
        _fail(str(error), ExitCode.RESUME)
    except (ArtifactError, StageError) as error:
        _fail(str(error), ExitCode.FAILED)
    except Terminated:
        _fail("told to stop; resume points are kept, run the same command again to go on", ExitCode.RESUME)
    except KeyboardInterrupt:
        _fail("interrupted; finished stages are kept, run the same command again to go on", ExitCode.INTERRUPTED)


if __name__ == "__main__":
    main()
