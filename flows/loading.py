"""Load a recipe file once in a process, as long as its text stays the same: a command and its flow both plan it."""

from functools import lru_cache
from pathlib import Path

from nanbeige_core.recipe.load import Recipe, RecipeSource
from nanbeige_core.recipe.tree import read_text

_KEPT = 8


def load(path: Path, *, profile: str, overrides: list[str]) -> Recipe:
    """Load a recipe; the file is read each time, and parsed and checked again only when it has changed.

    Raises RecipeError as `load_recipe` does.
    """
    return _source(path, read_text(path)).checked_recipe(profile, overrides)


@lru_cache(maxsize=_KEPT)
def _source(path: Path, text: str) -> RecipeSource:
    return RecipeSource(path, text)
