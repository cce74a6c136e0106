"""Decontamination: no training document may share a long word run with an evaluation item."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.hashing import hash_units, join_points, shingle_hashes, unit_hashes
from nanbeige_core.data.language import SPELLED_RATIO, spelled_ratio
from nanbeige_core.data.terms import batches_of

SHORTEST_TARGET = 8
"""Units; a shorter item would match by chance and is protected by the split of the generators instead."""

SPELLED_LETTERS = 3
"""Letters of Thai, kana and the like that say about as much as one word, or one Chinese character."""

MARKS = 1 << 20
"""Bytes of a table that spares nearly all runs the search among the known ones."""


@dataclass(frozen=True)
class Contamination:
    """Evidence of one hit: which evaluation item, and how many of the document's runs it shares."""

    target: str
    shared: int


class TargetIndex:
    """Word runs of evaluation items; an item shorter than a run is matched as a whole."""

    def __init__(self, targets: Iterable[tuple[str, str]], size: int) -> None:
        """Index (id, text) items with runs of `size` units."""
        self.size = size
        self.owners: dict[int, dict[int, str]] = {}
        self.items = 0
        for name, text in targets:
            units, _ = unit_hashes(text)
            letters = SPELLED_LETTERS if spelled_ratio(text) >= SPELLED_RATIO else 1
            length = min(size * letters, len(units))
            if length < SHORTEST_TARGET * letters:
                continue
            self.items += 1
            owners = self.owners.setdefault(length, {})
            for shingle in shingle_hashes(units, length):
                owners.setdefault(int(shingle), name)
        lengths = sorted(self.owners, reverse=True)
        known = [np.sort(np.array(list(self.owners[length]), np.uint64)) for length in lengths]
        self._lengths = np.array(lengths, np.int64)
        self._known = np.concatenate([np.empty(0, np.uint64), *known])
        self._starts = np.cumsum([0, *map(len, known)])
        self._marks = np.zeros(MARKS, np.bool_)
        self._marks[self._known % np.uint64(MARKS)] = True

    def find(self, text: str) -> Contamination | None:
        """Return the first evaluation item that a text shares a run with, or None."""
        return self.find_all([text])[0]

    def find_all(self, texts: Sequence[str]) -> list[Contamination | None]:
        """Return for each text the first evaluation item that it shares a run with; longer runs are looked for first.

        Most of the work is done without the lock, so threads may share an index.
        """
        return [hit for batch in batches_of(texts) for hit in self._find_batch(batch)]

    def _find_batch(self, texts: Sequence[str]) -> list[Contamination | None]:
        found: list[Contamination | None] = [None] * len(texts)
        points, offsets = join_points(texts)
        hits = _find_runs(points, offsets, self._lengths, self._known, self._starts, self._marks)
        for text, run, length, shared in zip(*(item.tolist() for item in hits), strict=True):
            found[text] = Contamination(self.owners[length][run], shared)
        return found


@njit(cache=True, nogil=True)
def _find_runs(
    points: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    lengths: NDArray[np.int64],
    known: NDArray[np.uint64],
    starts: NDArray[np.int64],
    marks: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each text with a known run, its number, its first such run, that run's length, and how many it has.

    `known[starts[n]:starts[n + 1]]` are the runs of `lengths[n]` units, ascending; `marks` tells by its low bits that
    a run may be one of them.
    """
    documents = len(offsets) - 1
    texts, lengths_found = np.empty(documents, np.int64), np.empty(documents, np.int64)
    firsts, shared = np.empty(documents, np.uint64), np.empty(documents, np.int64)
    found = 0
    mask = np.uint64(len(marks) - 1)
    for index in range(documents):
        units = hash_units(points[offsets[index] : offsets[index + 1]], True)[0]
        for number in range(len(lengths)):
            mine = known[starts[number] : starts[number + 1]]
            hits = np.empty(len(units), np.uint64)
            count = 0
            for run in shingle_hashes(units, lengths[number]):
                if marks[run & mask]:
                    place = np.searchsorted(mine, run)
                    if place < len(mine) and mine[place] == run:
                        hits[count] = run
                        count += 1
            if count > 0:
                texts[found], firsts[found], lengths_found[found] = index, hits[0], lengths[number]
                shared[found] = len(np.unique(hits[:count]))
                found += 1
                break
    return texts[:found], firsts[:found], lengths_found[:found], shared[:found]
