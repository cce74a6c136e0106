"""What a phase trains on: which set each sample comes from, and where in its stream.

The blend of a phase is exact and deterministic (Megatron's own blending indices); every set goes on where the last
phase left it, which the ledger in state.json records. Legend: B sequence, S position.
"""

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.phase_ledger import PhasePlanned, SetOrder, SpanPlan
from nanbeige_core.megatron.token_stream import TokenStream
from nanbeige_core.recipe.configs.pretrain import PHASES, Phase, PhaseTokens
from nanbeige_core.recipe.phase_plan import PhasePlan, Span


class Position(NamedTuple):
    """One sample: the set it comes from and where it begins in that set's stream (tokens)."""

    set: int
    token: int


def phase_weights(mixture: dict[str, Any], phase: Phase, *, blend: str, tokens: PhaseTokens) -> dict[str, float]:
    """Return the weight of each set in `phase`, summing to one; sets of weight zero are left out.

    `vanilla` gives each phase the token-weighted mean of all blends.
    """
    phases: dict[str, dict[str, float]] = mixture["phases"]
    raw: dict[str, float] = dict(phases[phase])
    if blend == "vanilla":
        names = {name for weights in phases.values() for name in weights}
        raw = {name: sum(tokens.of(one) * phases[one].get(name, 0.0) for one in PHASES) for name in sorted(names)}
    total = sum(raw.values())
    if total <= 0:
        raise ValueError(f"mixture.json gives phase {phase} no weight at all: every phase needs a set to draw from")
    return {name: weight / total for name, weight in sorted(raw.items()) if weight > 0}


class Blend:
    """The order of sets in a phase: Megatron's blending indices for up to PATTERN samples, then the same again."""

    PATTERN = 2**20

    def __init__(self, weights: list[float], samples: int, *, longest: int | None = None) -> None:
        helpers_cpp: Any = importlib.import_module("megatron.core.datasets.helpers_cpp")

        length = max(min(samples, longest or self.PATTERN), 1)
        self.sets: NDArray[np.int16] = np.zeros(length, dtype=np.int16)
        self.within: NDArray[np.int64] = np.zeros(length, dtype=np.int64)
        helpers_cpp.build_blending_indices(self.sets, self.within, np.array(weights), len(weights), length, False)
        self.per_pattern = self._count(length, len(weights))

    def _count(self, samples: int, sets: int) -> NDArray[np.int64]:
        return np.bincount(self.sets[:samples], minlength=sets).astype(np.int64)

    def layout(self) -> SetOrder:
        """Return the order as a ledger keeps it."""
        return SetOrder.endless(self.sets)

    def sample(self, index: int) -> tuple[int, int]:
        """Return (set, how many samples of that set came before) for sample `index`."""
        rounds, place = divmod(index, len(self.sets))
        chosen = int(self.sets[place])
        return chosen, rounds * int(self.per_pattern[chosen]) + int(self.within[place])

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each set."""
        rounds, rest = divmod(samples, len(self.sets))
        counts = rounds * self.per_pattern + self._count(rest, len(self.per_pattern))
        return counts.tolist()


class Order(Protocol):
    """Which set each sample of a span comes from."""

    def layout(self) -> SetOrder:
        """Return the order as a ledger keeps it."""
        ...

    def sample(self, index: int) -> tuple[int, int]:
        """Return (set, how many samples of that set came before) for sample `index`."""
        ...

    def drawn(self, samples: int) -> list[int]:
        """Return how many of the first `samples` samples come from each set."""
        ...


def blend_spans(weights: list[float], plan: PhasePlan) -> list[Blend]:
    """Return the blend of each span of a phase."""
    return [Blend(weights, span.steps * span.sequences_per_step) for span in plan.spans]


class BlendedSource:
    """The samples of one phase in order; sample i is the same whoever asks, in whatever layout."""

    def __init__(
        self, streams: list[TokenStream], orders: Sequence[Order], offsets: list[int], plan: PhasePlan
    ) -> None:
        self.streams = streams
        self.plan = plan
        self.blends = orders
        self.offsets = [list(offsets)]
        for span, blend in zip(plan.spans, self.blends, strict=True):
            drawn = blend.drawn(span.steps * span.sequences_per_step)
            begun = zip(self.offsets[-1], drawn, strict=True)
            self.offsets.append([begin + count * span.sequence_length for begin, count in begun])

    @property
    def ends(self) -> list[int]:
        """Return where each set's stream stands after the phase, in tokens."""
        return self.offsets[-1]

    def planned(self) -> PhasePlanned:
        """Return what the phase draws, as its ledger keeps it."""
        spans = [
            SpanPlan(*span, order=blend.layout(), begins=begins, ends=ends)
            for span, blend, begins, ends in zip(
                self.plan.spans, self.blends, self.offsets[:-1], self.offsets[1:], strict=True
            )
        ]
        return PhasePlanned([stream.name for stream in self.streams], self.streams[0].order.seed, spans)

    def step_samples(self, step: int) -> tuple[Span, list[Position]]:
        """Return all samples of the phase's step number `step` (from 0)."""
        for span, blend, offsets in zip(self.plan.spans, self.blends, self.offsets, strict=False):
            if step < span.steps:
                begin = step * span.sequences_per_step
                drawn = [blend.sample(index) for index in range(begin, begin + span.sequences_per_step)]
                return span, [Position(chosen, offsets[chosen] + n * span.sequence_length) for chosen, n in drawn]
            step -= span.steps
        raise IndexError(f"a step {step} steps beyond the end of the phase was asked for")

    def read(self, position: Position, sequence_length: int) -> NDArray[np.int64]:
        """Return the sample's tokens and one more, the last target."""
        return self.streams[position.set].read(position.token, sequence_length + 1)


def make_batch(rows: list[NDArray[np.int64]], *, end_of_document: int | None) -> Batch:
    """Stack samples of S + 1 tokens into a Batch.

    With `end_of_document`, a token sees only its own document, and the end token has no target: the next document
    cannot be foretold from it.
    """
    ids = torch.from_numpy(np.stack(rows))
    tokens_BS, labels_BS = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    if end_of_document is None:
        return Batch(tokens_BS, labels_BS, torch.ones(tokens_BS.shape))
    ends_BS = tokens_BS == end_of_document
    segment_ids_BS = ends_BS.cumsum(1) - ends_BS.long()
    return Batch(tokens_BS, labels_BS, (~ends_BS).float(), segment_ids_BS)


class Mixture(NamedTuple):
    """A TokenizedMixture artifact's description."""

    directory: Path
    content: dict[str, Any]

    @classmethod
    def open(cls, directory: Path) -> "Mixture":
        """Read mixture.json."""
        return cls(directory, json.loads((directory / "mixture.json").read_text()))

    @property
    def vocab_size(self) -> int:
        """Return the tokenizer's vocabulary size."""
        return self.content["vocab_size"]

    @property
    def tokenizer_fingerprint(self) -> str:
        """Return the fingerprint of the tokenizer that made the ids."""
        return self.content["tokenizer_fingerprint"]

    def stream(self, name: str, *, seed: int, shuffle: bool = True) -> TokenStream:
        """Open one set."""
        return TokenStream(self.directory / name, seed=seed, shuffle=shuffle)

    def end_of_document(self) -> int:
        """Return the id that ends every document, read from the held-out set's first document."""
        documents = self.stream("validation", seed=0, shuffle=False).documents
        return int(documents.get(0)[-1])
