"""Which per-problem measures a stage leaves, known before it runs."""

from collections.abc import Iterable, Mapping

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.configs.evaluate import EvaluateConfig
from nanbeige_core.stages import StageSpec

RECORDS = "per_problem.parquet"
"""File beside an artifact that holds what its stage measured of each held-out problem."""


def known_measures(spec: StageSpec, inputs: Iterable[str], config: IdentityConfig) -> dict[str, bool]:
    """Return measure -> whether higher is better; an evaluation measures every checkpoint it reads on every suite."""
    if not isinstance(config, EvaluateConfig):
        return spec.measures
    checkpoints = [name for name in inputs if spec.consumes.get(name, spec.further) == Kind.CHECKPOINT]
    return {f"{name}.{suite}": True for name in checkpoints for suite in config.suites}


def require_measure(measure: str, known: Mapping[str, bool], metric: str) -> bool:
    """Return whether a higher value is better; raise RecipeError for a measure the stage does not leave."""
    if not known:
        raise RecipeError(
            f"metric {metric!r}: that stage keeps no per-problem records, and without them arms cannot be compared. "
            "Choose a stage that measures held-out problems, for example dpd.heldout_exact_match."
        )
    if measure not in known:
        raise RecipeError(f"metric {metric!r}: that stage has no measure {measure!r}; {nearest(measure, known)}")
    return known[measure]
