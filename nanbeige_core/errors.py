"""Errors a user can act on: what was found, what was expected, why, what to do, and where."""

from collections.abc import Iterable
from difflib import get_close_matches


class RecipeError(ValueError):
    """Report a recipe, plan or input that cannot work; the message carries place and remedy."""


class ArtifactError(RuntimeError):
    """Report an artifact that is missing, corrupt, or of another type than the stage needs."""


class StageError(RuntimeError):
    """Report a stage that failed while running, with its last log lines and how to resume it."""


class StageInterruptedError(StageError):
    """Report a stage that was told to stop; its resume point is kept."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the known word closest to `name`, or listing the known words."""
    words = sorted(known)
    close = get_close_matches(name, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(words)}"
