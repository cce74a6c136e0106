"""What every command shares: its options, the recipe and store it opens, and how it prints tables."""

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.completion import complete_artifact, complete_override, complete_profile, complete_stage
from flows.loading import load
from flows.tables import print_table
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.plan import Plan, Selection, make_plan
from nanbeige_core.recipe.price.calibration import FILE_NAME, load_calibration
from nanbeige_core.recipe.price.estimate import RecipePrice, price_recipe
from nanbeige_core.recipe.price.rates import load_rates
from nanbeige_core.report.plan_report import plan_rows
from nanbeige_core.report.price_report import cost_texts, total_line
from nanbeige_core.report.stage_report import describe_gain

console = Console(width=None if sys.stdout.isatty() else 160)
_STYLES = {"HIT": "green", "RUN": "yellow", "RESUME": "cyan", "SKIP": "dim"}

ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile", "-p", help="laptop, smollm2-135m, ablation-1b or nanbeige4-3b.", autocompletion=complete_profile
    ),
]
FromOption = Annotated[
    str, typer.Option("--from", help="Run this stage and all that depend on it.", autocompletion=complete_stage)
]
OnlyOption = Annotated[
    str,
    typer.Option("--only", help="Run this one stage from cached upstream artifacts.", autocompletion=complete_stage),
]
UntilOption = Annotated[
    str, typer.Option("--until", help="Run this stage and all it depends on.", autocompletion=complete_stage)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Make the selected stages again though they are there.")]
SetOption = Annotated[
    list[str],
    typer.Option("--set", help="stage.field=value, e.g. dpd.beta=0.2; repeatable.", autocompletion=complete_override),
]
FileOption = Annotated[Path, typer.Option("--file", help="The recipe file.", show_default="pipelines.yaml")]
StoreOption = Annotated[str, typer.Option("--store", help="Folder or fsspec URL of the artifacts.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout; words for people go to stderr.")
]
PortOption = Annotated[int, typer.Option("--port", help="Port of the Prefect server; 0: 4200 or a free one.")]
ArtifactArgument = Annotated[
    str,
    typer.Argument(
        help="A stage name, stage/prefix, a fingerprint prefix, or @alias.", autocompletion=complete_artifact
    ),
]


@contextmanager
def words_aside(as_json: bool) -> Generator[None]:
    """Send what is printed for people to stderr when stdout is to carry a JSON document."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(document: Any) -> None:
    """Print the command's one JSON document on stdout."""
    print(json.dumps(document, indent=1, ensure_ascii=False, default=str))


def open_store(url: str) -> Store:
    """The store at a folder or fsspec URL; what is fetched from a remote one is kept beside a local one."""
    local = Path(url) if "://" not in url else Path("store")
    return Store(url, (local / ".cache").absolute())


def plan_recipe(file: Path, profile: str, overrides: list[str], store: str, selection: Selection) -> Plan:
    """Plan the recipe file against the store; raises RecipeError for whatever is wrong with either."""
    return make_plan(load(file, profile=profile, overrides=overrides), open_store(store), selection)


def artifact_row(manifest: Manifest) -> dict[str, Any]:
    """One artifact as a line of `ls`."""
    return {
        "artifact": manifest.reference.address,
        "type": manifest.kind.value,
        "made": manifest.started[:19].replace("T", " "),
        "seconds": round(manifest.seconds, 1),
        "MB": round(manifest.bytes / 1e6, 1),
        "before -> after": describe_gain(manifest.outcome.gain) if manifest.outcome.gain else "",
    }


def print_plan(made: Plan, store: str = "store") -> None:
    """Print what would run, why, and what it would cost on this machine as far as it was measured."""
    names = [planned.name for planned in made.to_run]
    price = price_plan(made, store)
    costs = cost_texts(price, names)
    table = Table(title=f"{made.recipe.file.recipe} · profile {made.recipe.profile}", title_justify="left")
    for column in ("stage", "action", "artifact", "cost", "why"):
        table.add_column(column, overflow="fold")
    for row in plan_rows(made):
        style, name = _STYLES[row["action"]], row["stage"]
        action = f"[{style}]{row['action']}[/{style}]"
        table.add_row(name, action, row["artifact"], costs.get(name, ""), escape(row["why"]))
    console.print(table)
    console.print(f"{len(made.to_run)} of {len(made.stages)} stages to run")
    if names:
        console.print(f"price: {total_line(price, names)}", style="dim", highlight=False, soft_wrap=True)


def priced_rows(made: Plan, store: str) -> list[dict[str, Any]]:
    """Return the plan's rows, those that would run with their price: {low, expected, high} of each quantity."""
    price = price_plan(made, store)
    running = {planned.name for planned in made.to_run}
    fields = ("tokens", "flops", "seconds", "storage_bytes", "money")
    return [
        row | {"price": {name: asdict(getattr(price.stages[row["stage"]], name)) for name in fields}}
        if row["stage"] in running
        else row
        for row in plan_rows(made)
    ]


def price_plan(made: Plan, store: str) -> RecipePrice:
    """Price the plan's recipe by the shipped rate card and what was measured of this machine for the store."""
    return price_recipe(made.recipe, load_rates(), calibration=load_calibration(calibration_path(store)))


def calibration_path(store: str) -> Path:
    """Return where the measurement of this machine lies for a store; that of a remote store lies beside ./store."""
    return (Path(store) if "://" not in store else Path("store")) / ".cache" / FILE_NAME


def print_summary(now: Plan, before: Plan, store: str) -> list[dict[str, Any]]:
    """Print and return the table a run ends with: `before` tells which stages were executed, `now` what they made."""
    from nanbeige_core.report.run_report import summary_rows  # here: only a run needs the reports' drawing

    opened = open_store(store)
    manifests = {p.name: opened.open(p.reference)[0] for p in now.stages.values() if p.reference is not None}
    executed = [planned.name for planned in before.to_run]
    rows = summary_rows(now, manifests, executed)
    print_rows(rows, "summary")
    return rows


def print_rows(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table with the columns of all of them; nothing for no rows."""
    print_table(console, rows, title)
