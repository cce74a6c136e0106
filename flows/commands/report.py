"""`nanbeige report`: the page of what the store holds for a recipe, made without running anything."""

import os
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.console import (
    FileOption,
    JsonOption,
    ProfileOption,
    SetOption,
    StoreOption,
    console,
    open_store,
    plan_recipe,
    print_json,
)
from flows.parameters import RECIPE_FILE
from nanbeige_core.artifacts.store import RUNS, Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.plan import Selection

OutOption = Annotated[Path | None, typer.Option("--out", help="Where to write the page.", dir_okay=False)]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    profile: ProfileOption = "laptop",
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    out: OutOption = None,
    show: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about the recipe's artifacts: scores, losses, samples, times.

    Without --out it goes into the store as `runs/report-PROFILE.html`, or into this folder when the store is remote.
    """
    from nanbeige_core.report.run_report import RunFacts, run_page  # here: drawing would slow every command's start

    opened = open_store(store)
    plan = plan_recipe(file, profile, overrides, store, Selection())
    manifests = {p.name: opened.open(p.reference)[0] for p in plan.stages.values() if p.reference is not None}
    if not manifests:
        raise RecipeError(
            f"no stage of profile {profile} has an artifact in {store}, so there is nothing to report. "
            f"Run it first: nanbeige run --profile {profile}" + "".join(f" --set {text}" for text in overrides)
        )
    target = (out or _default_target(opened, profile)).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(run_page(plan, manifests, opened, RunFacts(), links=_links(target, opened)), encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the page cannot be written to {target}: {error}. Give another place with --out.") from error
    if as_json:
        print_json({"page": str(target), "stages": len(manifests), "of": len(plan.stages)})
    else:
        console.print(f"{len(manifests)} of {len(plan.stages)} stages: {target}", highlight=False, soft_wrap=True)
    if show:
        webbrowser.open(target.as_uri())


def _default_target(store: Store, profile: str) -> Path:
    name = f"report-{profile}.html"
    return Path(store.root) / RUNS / name if store.is_local else Path(name)


def _links(target: Path, store: Store) -> str:
    """Return the way from the page to the store; pages of a remote store link to nothing."""
    return os.path.relpath(store.root, target.parent) if store.is_local else ""
