"""The ledger of a pretraining phase: at which step which document was in the batch.

A phase's samples follow from four things: the order of its sets (a repeating pattern), where each set's stream
begins, the window of each span, and the seed of the document order. They are kept beside the weights in `ledger.npz`,
whose size does not grow with the tokens; the rest is arithmetic on the mixture's sidecar, and no token is read.
"""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import compute

from nanbeige_core.lineage.ledger import Totals, Use
from nanbeige_core.megatron.document_order import DocumentOrder

pc: Any = compute  # its functions are made at import: a type checker knows none of them

PHASE_LEDGER = "ledger.npz"
SIDECAR = "sidecar.parquet"


class SetOrder(NamedTuple):
    """Which set each sample comes from: `pattern` again and again, or `rounds` times and then `tail`."""

    pattern: NDArray[np.integer]
    rounds: int
    tail: NDArray[np.integer]

    @classmethod
    def endless(cls, pattern: NDArray[np.integer]) -> "SetOrder":
        """Return a pattern that repeats for as long as samples are drawn."""
        return cls(pattern, 0, np.zeros(0, dtype=pattern.dtype))


class SpanPlan(NamedTuple):
    """Steps that share one window: the order of sets, and where each set's stream begins and ends."""

    steps: int
    sequence_length: int
    sequences_per_step: int
    order: SetOrder
    begins: list[int]
    ends: list[int]


class PhasePlanned(NamedTuple):
    """What a phase draws from, in full."""

    sets: list[str]
    seed: int
    spans: list[SpanPlan]

    def save(self, directory: Path) -> None:
        """Write `ledger.npz`, atomically."""
        header = [[span.steps, span.sequence_length, span.sequences_per_step, span.order.rounds] for span in self.spans]
        arrays = {f"pattern_{number}": span.order.pattern for number, span in enumerate(self.spans)}
        arrays |= {f"tail_{number}": span.order.tail for number, span in enumerate(self.spans)}
        partial = directory / f".{PHASE_LEDGER}.part.npz"
        np.savez_compressed(
            partial,
            sets=np.array(self.sets),
            seed=np.array(self.seed),
            spans=np.array(header, dtype=np.int64),
            begins=np.array([span.begins for span in self.spans], dtype=np.int64),
            ends=np.array([span.ends for span in self.spans], dtype=np.int64),
            **arrays,  # type: ignore[arg-type]
        )
        os.replace(partial, directory / PHASE_LEDGER)

    @classmethod
    def load(cls, file: Path) -> "PhasePlanned":
        """Read `ledger.npz`."""
        with np.load(file) as stored:
            spans = [
                SpanPlan(
                    *map(int, header[:3]),
                    order=SetOrder(stored[f"pattern_{number}"], int(header[3]), stored[f"tail_{number}"]),
                    begins=begins.tolist(),
                    ends=ends.tolist(),
                )
                for number, (header, begins, ends) in enumerate(
                    zip(stored["spans"], stored["begins"], stored["ends"], strict=True)
                )
            ]
            return cls([str(name) for name in stored["sets"]], int(stored["seed"]), spans)


class _Seen(NamedTuple):
    """Documents met in one epoch of one span, as columns; `tokens` is how many of each were in a window."""

    documents: NDArray[np.int64]
    epoch: NDArray[np.int64]
    first_step: NDArray[np.int64]
    last_step: NDArray[np.int64]
    tokens: NDArray[np.int64]


class _Lookup:
    """Turn the n-th sample of a set into a step of its span."""

    def __init__(self, span: SpanPlan, place: int) -> None:
        self._period, self._per_step = len(span.order.pattern), span.sequences_per_step
        self._places = np.flatnonzero(span.order.pattern == place)
        self._tail = np.flatnonzero(span.order.tail == place) + span.order.rounds * self._period
        self._repeated = span.order.rounds * len(self._places)
        self._ends = len(span.order.tail) > 0

    def step(self, sample_N: NDArray[np.int64]) -> NDArray[np.int64]:
        places_N = np.zeros_like(sample_N)
        late_N = (sample_N >= self._repeated) if self._ends else np.zeros(len(sample_N), dtype=bool)
        places_N[late_N] = self._tail[sample_N[late_N] - self._repeated]
        rounds, rest = np.divmod(sample_N[~late_N], max(len(self._places), 1))
        places_N[~late_N] = rounds * self._period + self._places[rest]
        return places_N // self._per_step


class PhaseLedger:
    """Which documents of a mixture a phase saw, and when; steps count from 1."""

    def __init__(self, planned: PhasePlanned, mixture: Path) -> None:
        self.planned = planned
        self._ids: dict[str, NDArray[np.object_]] = {}
        self._orders: dict[str, DocumentOrder] = {}
        self._sidecar = mixture / SIDECAR

    def uses(self, ids: Collection[str]) -> list[Use]:
        """Return when these documents were seen; several epochs are one Use."""
        table = pq.read_table(self._sidecar, columns=["document_id", "set", "index"])
        found = table.filter(pc.is_in(table["document_id"], pa.array(list(ids), pa.string())))
        chosen: dict[str, list[int]] = {}
        for row in found.to_pylist():
            chosen.setdefault(row["set"], []).append(row["index"])
        uses: list[Use] = []
        for name in [name for name in self.planned.sets if name in chosen]:
            self._open(name)
            masks = ((seen, np.isin(seen.documents, chosen[name])) for seen in self._met(name))
            met = [_Seen(*(column[mask] for column in seen)) for seen, mask in masks if mask.any()]
            uses += self._summed(name, met)
        return uses

    def everything(self) -> Iterator[Use]:
        """Yield every document that was in a batch, set by set."""
        for name in self.planned.sets:
            self._open(name)
            yield from self._summed(name, list(self._met(name)))

    def totals(self) -> Totals:
        """Return documents and tokens of each set."""
        groups: list[dict[str, object]] = []
        for name in self.planned.sets:
            self._open(name)
            met = list(self._met(name))
            tokens = int(sum(seen.tokens.sum() for seen in met))
            documents = len(np.unique(np.concatenate([seen.documents for seen in met]))) if met else 0
            if tokens:
                groups.append({"set": name, "documents": documents, "tokens": tokens})
        steps = sum(span.steps for span in self.planned.spans)
        return Totals(sum(int(str(group["documents"])) for group in groups), 0, steps, groups)

    def _open(self, name: str) -> None:
        if name in self._orders:
            return
        table = pq.read_table(self._sidecar, filters=[("set", "==", name)], columns=["index", "document_id", "tokens"])
        table = table.sort_by("index")
        self._ids[name] = table["document_id"].to_numpy()
        self._orders[name] = DocumentOrder(name, table["tokens"].to_numpy(), seed=self.planned.seed)

    def _summed(self, name: str, met: list[_Seen]) -> Iterator[Use]:
        """Join the epochs and spans in which a document was met."""
        if not met:
            return
        seen = _Seen(*(np.concatenate(parts) for parts in zip(*met, strict=True)))
        documents, inverse = np.unique(seen.documents, return_inverse=True)
        # a span may end inside a document: both parts are one epoch's
        times = np.bincount(np.unique(np.stack([inverse, seen.epoch]), axis=1)[0])
        first = np.full(len(documents), np.iinfo(np.int64).max)
        last = np.zeros(len(documents), dtype=np.int64)
        tokens = np.zeros(len(documents), dtype=np.int64)
        np.minimum.at(first, inverse, seen.first_step)
        np.maximum.at(last, inverse, seen.last_step)
        np.add.at(tokens, inverse, seen.tokens)
        names, lengths = self._ids[name], self._orders[name].lengths
        for number, document in enumerate(documents.tolist()):
            note = f"{tokens[number]} tokens of {lengths[document]}, set {name}"
            yield Use(str(names[document]), int(times[number]), int(first[number]), int(last[number]), note)

    def _met(self, name: str) -> Iterator[_Seen]:
        """Yield what each epoch of each span shows of a set."""
        place, order = self.planned.sets.index(name), self._orders[name]
        done = 0
        for span in self.planned.spans:
            begin, end = span.begins[place], span.ends[place]
            epochs = range(begin // order.tokens_per_epoch, -(-end // order.tokens_per_epoch) if end > begin else 0)
            for number in epochs:
                yield _overlap(order, number, begin, end, span.sequence_length, _Lookup(span, place), done)
            done += span.steps


def _overlap(order: DocumentOrder, number: int, begin: int, end: int, window: int, lookup: _Lookup, done: int) -> _Seen:
    epoch, base = order.epoch(number), number * order.tokens_per_epoch
    stops = base + epoch.ends
    starts = stops - order.lengths[epoch.order]
    first, last = np.maximum(starts, begin), np.minimum(stops, end)
    inside = last > first
    return _Seen(
        epoch.order[inside],
        np.full(int(inside.sum()), number),
        done + 1 + lookup.step((first[inside] - begin) // window),
        done + 1 + lookup.step((last[inside] - 1 - begin) // window),
        (last - first)[inside],
    )
