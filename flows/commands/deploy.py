"""`nanbeige deploy`: put the deployments on a Prefect server of yours, where workers of yours run them."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from flows.console import FileOption, JsonOption, StoreOption, console, print_json, words_aside
from flows.parameters import RECIPE_FILE
from nanbeige_core.cores import usable_cores
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe_file


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(deploy)


def deploy(
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    cores: Annotated[int, typer.Option("--cores", min=0, help="Cores all runs share; 0: those of this machine.")] = 0,
    pool: Annotated[str, typer.Option("--pool", help="Work pool that runs them; made if it is not there.")] = "local",
    template: Annotated[
        Path | None,
        typer.Option("--kubernetes", help="Make the pool a Kubernetes one with this base job template (JSON)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Create or refresh the deployments on the server of PREFECT_API_URL; starts nothing."""
    if not os.environ.get("PREFECT_API_URL"):
        raise RecipeError(
            "PREFECT_API_URL is not set: `deploy` is for a Prefect server of yours, e.g. http://127.0.0.1:4200/api. "
            "`nanbeige up` starts server, worker and deployments on this machine."
        )
    recipe_file = load_recipe_file(file)
    location = store if "://" in store else str(Path(store).absolute())
    with words_aside(as_json):
        from flows.deployments import WorkPool, register

        chosen = WorkPool(pool, json.loads(template.read_text(encoding="utf-8")) if template else None)
        names = register(recipe_file, path=file.absolute(), store=location, cores=cores or usable_cores(), pool=chosen)
        console.print(f"Deployments in the pool {pool}: {', '.join(names)}", highlight=False)
    if as_json:
        print_json({"pool": pool, "deployments": names})
