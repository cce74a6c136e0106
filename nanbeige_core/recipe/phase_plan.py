"""How many steps a pretraining phase takes and at which window: arithmetic on the recipe, without torch."""

from itertools import accumulate
from typing import NamedTuple

from nanbeige_core.recipe.configs.pretrain import PHASES, FgwsdConfig


class Span(NamedTuple):
    """Steps of a phase that share one sequence length."""

    steps: int
    sequence_length: int
    sequences_per_step: int


class PhasePlan(NamedTuple):
    """Where a phase lies in the whole run, in optimizer steps, and its spans."""

    first_step: int
    spans: list[Span]

    @property
    def steps(self) -> int:
        """Return the number of steps of the phase."""
        return sum(span.steps for span in self.spans)


def step_boundaries(config: FgwsdConfig) -> list[int]:
    """Return the step at which each of the four phases begins, and the end: cumulative tokens in whole steps."""
    tokens = accumulate((config.phase_tokens.of(phase) for phase in PHASES), initial=0)
    per_step = config.global_batch_size * config.sequence_length
    return [round(total / per_step) for total in tokens]


def plan_phase(config: FgwsdConfig) -> PhasePlan:
    """Return the steps of the configured phase; decay ends with a span at the extended window.

    Raises ValueError for a phase without a single step.
    """
    boundaries = step_boundaries(config)
    number = PHASES.index(config.phase)
    first, steps = boundaries[number], boundaries[number + 1] - boundaries[number]
    if steps < 1:
        raise ValueError(
            f"phase {config.phase} has {config.phase_tokens.of(config.phase)} tokens, less than one step of "
            f"{config.global_batch_size * config.sequence_length}: raise its tokens or lower global_batch_size."
        )
    short, tokens = config.sequence_length, config.global_batch_size * config.sequence_length
    extended = round(steps * config.abf.fraction) if config.phase == "decay" else 0
    spans = [Span(steps - extended, short, config.global_batch_size)]
    if extended:
        spans.append(Span(extended, config.abf.sequence_length, tokens // config.abf.sequence_length))
    return PhasePlan(first, [span for span in spans if span.steps])
