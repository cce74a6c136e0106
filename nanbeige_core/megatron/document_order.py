"""The order in which a set's documents follow each other: epoch after epoch, each seeded and shuffled on its own.

Numbers alone, no tokens and no device: the training stream reads tokens by it, and `trace` finds by it when a
document was seen.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Epoch(NamedTuple):
    """One epoch: document numbers in order, and where each ends (tokens from the epoch's begin)."""

    order: NDArray[np.int64]
    ends: NDArray[np.int64]


class DocumentOrder:
    """Where every document of a set lies in its endless stream."""

    def __init__(self, name: str, lengths: NDArray[np.int64], *, seed: int, shuffle: bool = True) -> None:
        self.name = name
        self.lengths = lengths
        self.tokens_per_epoch = int(lengths.sum())
        self.seed = seed
        self.shuffle = shuffle
        self._epochs: dict[int, Epoch] = {}

    def epoch(self, number: int) -> Epoch:
        """Return one epoch's order."""
        if number not in self._epochs:
            order = np.arange(len(self.lengths), dtype=np.int64)
            if self.shuffle:
                order = np.random.default_rng([self.seed, number, *self.name.encode()]).permutation(order)
            # a range spans at most two epochs in practice: keep those
            for old in [epoch for epoch in self._epochs if epoch < number - 1]:
                del self._epochs[old]
            self._epochs[number] = Epoch(order, np.cumsum(self.lengths[order]))
        return self._epochs[number]

    def between(self, start: int, stop: int) -> list[int]:
        """Return the document numbers that a range of the stream touches, in order (repeated over epochs)."""
        found: list[int] = []
        while start < stop:
            epoch, offset = divmod(start, self.tokens_per_epoch)
            length = min(stop - start, self.tokens_per_epoch - offset)
            order, ends = self.epoch(epoch)
            first, last = np.searchsorted(ends, [offset, offset + length - 1], side="right")
            found += order[first : last + 1].tolist()
            start += length
        return found
