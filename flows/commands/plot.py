"""`nanbeige plan --plot`: learning rate and mixture against tokens as a picture, from the recipe alone."""

from pathlib import Path
from typing import Annotated

import typer

from flows.console import console
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import Recipe

PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw learning rate and mixture against tokens: .svg, .png or .pdf.")
]
_FORMATS = (".svg", ".png", ".pdf")


def plot_recipe(recipe: Recipe, target: Path) -> None:
    """Write the picture; raise RecipeError for another suffix, a place that cannot be written, or no FG-WSD stage."""
    if target.suffix.lower() not in _FORMATS:
        raise RecipeError(f"--plot {target}: {target.suffix or 'no suffix'} is no picture; use {', '.join(_FORMATS)}")
    from nanbeige_core.report.pretraining import draw_recipe

    figure = draw_recipe(recipe)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=150, facecolor="white")
    except OSError as error:
        raise RecipeError(f"the plot cannot be written to {target}: {error}. Give another place.") from error
    console.print(f"plot: {target.absolute()}", highlight=False, soft_wrap=True)
