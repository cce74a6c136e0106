"""Vanilla WSD as the ablation's control: the fine-grained run's own tokens, spread evenly over the run.

Both arms read the same tokens of every set and differ only in when: so the counts of the whole fine-grained run come
first, exactly, and every span of steps gets its share of them in whole samples. A blend by averaged weights would
round differently in every phase, and the two arms would not see the same tokens.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nanbeige_core.megatron.blend import Blend, phase_weights
from nanbeige_core.megatron.phase_ledger import SetOrder
from nanbeige_core.recipe.configs.pretrain import PHASES, FgwsdConfig, Phase
from nanbeige_core.recipe.phase_plan import Span, plan_phase

Counts = NDArray[np.int64]


class CountedBlend:
    """An order of sets that draws exactly `counts[i]` samples of set i, evenly spread.

    Up to Blend.PATTERN samples are laid out once and repeated; what the repetitions leave over follows at the end.
    """

    def __init__(self, counts: list[int]) -> None:
        self.counts = np.array(counts, dtype=np.int64)
        samples = int(self.counts.sum())
        length = min(samples, Blend.PATTERN)
        per_round = self.counts * length // max(samples, 1)
        self.rounds = samples // length if length else 0
        self.round = _exact(per_round)
        self.round_counts = per_round
        self.rest = _exact(self.counts - self.rounds * per_round)

    def layout(self) -> SetOrder:
        """Return the order as a ledger keeps it."""
        return SetOrder(self.round.sets, self.rounds, self.rest.sets)

    def sample(self, index: int) -> tuple[int, int]:
        """Return (set, how many samples of that set came before) for sample `index`."""
        repeated = self.rounds * len(self.round.sets)
        if index >= repeated:
            chosen, within = self.rest.at(index - repeated)
            return chosen, self.rounds * int(self.round_counts[chosen]) + within
        done, place = divmod(index, len(self.round.sets))
        chosen, within = self.round.at(place)
        return chosen, done * int(self.round_counts[chosen]) + within

    def drawn(self, samples: int) -> list[int]:
        """Return how many samples come from each set; known only for all of them."""
        assert samples == int(self.counts.sum()), "a counted blend is drawn as a whole"
        return self.counts.tolist()


class _Order(NamedTuple):
    sets: NDArray[np.int16]
    within: NDArray[np.int64]

    def at(self, index: int) -> tuple[int, int]:
        return int(self.sets[index]), int(self.within[index])


def _exact(counts: Counts) -> _Order:
    """Interleave sets so that each comes exactly as often as it counts.

    Megatron's greedy indices never run ahead of a set's share by a whole sample, so over a whole block they are exact.
    """
    samples, used = int(counts.sum()), np.flatnonzero(counts)
    if samples == 0:
        return _Order(np.zeros(0, dtype=np.int16), np.zeros(0, dtype=np.int64))
    blend = Blend((counts[used] / samples).tolist(), samples, longest=samples)
    assert blend.per_pattern.tolist() == counts[used].tolist(), f"blending {counts} gave {blend.per_pattern}"
    return _Order(used[blend.sets].astype(np.int16), blend.within)


def fine_grained_tokens(config: FgwsdConfig, mixture: dict[str, Any]) -> dict[str, int]:
    """Return how many tokens of each set the whole fine-grained run reads."""
    totals: dict[str, int] = {}
    for phase in PHASES:
        weights = phase_weights(mixture, phase, blend="fine_grained", tokens=config.phase_tokens)
        for span in plan_phase(config.model_copy(update={"phase": phase})).spans:
            samples = span.steps * span.sequences_per_step
            for name, count in zip(weights, Blend(list(weights.values()), samples).drawn(samples), strict=True):
                totals[name] = totals.get(name, 0) + count * span.sequence_length
    return {name: total for name, total in sorted(totals.items()) if total}


def even_blends(config: FgwsdConfig, mixture: dict[str, Any]) -> tuple[list[str], list[CountedBlend]]:
    """Return the sets and one blend per span of the configured phase.

    Raises ValueError when samples of the two windows cannot share a set's tokens.
    """
    if config.abf.fraction and config.abf.sequence_length % config.sequence_length:
        raise ValueError(
            f"blend even needs abf.sequence_length ({config.abf.sequence_length}) to be a multiple of sequence_length "
            f"({config.sequence_length}): a set's tokens are shared among samples of both. Change one of them."
        )
    totals = fine_grained_tokens(config, mixture)
    spans: list[tuple[Phase, Span]] = [
        (phase, span) for phase in PHASES for span in plan_phase(config.model_copy(update={"phase": phase})).spans
    ]
    left = np.array(list(totals.values()), dtype=np.int64)
    counts: dict[tuple[Phase, Span], Counts] = {}
    # the longest window first: a set with less than one such sample left cannot give one
    for phase, span in sorted(spans, key=lambda item: -item[1].sequence_length):
        counts[phase, span] = _share(left, span)
        left = left - counts[phase, span] * span.sequence_length
    assert not left.any(), f"tokens left over after every span took its share: {left}"
    return list(totals), [CountedBlend(counts[config.phase, span].tolist()) for span in plan_phase(config).spans]


def _share(left: Counts, span: Span) -> Counts:
    """Return whole samples of each set for a span, in proportion to what is left, largest remainders rounded up."""
    samples, available = span.steps * span.sequences_per_step, left // span.sequence_length
    # exact integers: tokens times samples of a 23 T run do not fit 64 bits
    total = int(left.sum())
    quotas = [divmod(int(tokens) * samples, total) for tokens in left]
    counts = np.array([min(quota, int(most)) for (quota, _), most in zip(quotas, available, strict=True)])
    order = sorted(range(len(left)), key=lambda index: (-quotas[index][1], index))
    while (missing := samples - int(counts.sum())) > 0:
        open_sets = [index for index in order if counts[index] < available[index]][:missing]
        assert open_sets, "the fine-grained run drew these samples, so the sets hold them"
        counts[open_sets] += 1
    return counts
