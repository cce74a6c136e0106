"""A character n-gram language model: bits per UTF-8 byte, the perplexity signal of the tagger.

Per byte, not per character: a Chinese character says as much as three Latin ones and must not look like noise.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.hashing import code_points, mix

ORDERS = (1, 2, 3, 5)
TABLE_BITS = 20
BACKOFF = 0.4
"""Pseudo-count weight of the shorter context (interpolated absolute smoothing)."""


class CharacterModel:
    """Counts of character runs of length 1, 2, 3 and 5 in hashed tables, interpolated from short to long."""

    def __init__(self) -> None:
        self.counts = np.zeros((len(ORDERS), 1 << TABLE_BITS), dtype=np.uint32)
        self.contexts = np.zeros((len(ORDERS), 1 << TABLE_BITS), dtype=np.uint32)

    def learn(self, text: str) -> None:
        """Add the counts of one text."""
        _count(code_points(text), np.array(ORDERS), self.counts, self.contexts)

    def measure_bits(self, text: str) -> float:
        """Return the mean bits per UTF-8 byte under the model; 0 for an empty text."""
        return float(_bits(code_points(text), np.array(ORDERS), self.counts, self.contexts))


@njit(cache=True)
def _slot(points: NDArray[np.uint32], start: int, end: int, salt: int) -> int:
    value = np.uint64(salt)
    for index in range(start, end):
        value = mix(value * np.uint64(31) + np.uint64(points[index]) + np.uint64(1))
    return int(value & np.uint64((1 << TABLE_BITS) - 1))


@njit(cache=True)
def _count(
    points: NDArray[np.uint32],
    orders: NDArray[np.int64],
    counts: NDArray[np.uint32],
    contexts: NDArray[np.uint32],
) -> None:
    for index in range(len(points)):
        for row in range(len(orders)):
            start = index - orders[row] + 1
            if start >= 0:
                counts[row, _slot(points, start, index + 1, row)] += np.uint32(1)
                contexts[row, _slot(points, start, index, row)] += np.uint32(1)


@njit(cache=True)
def _bits(
    points: NDArray[np.uint32],
    orders: NDArray[np.int64],
    counts: NDArray[np.uint32],
    contexts: NDArray[np.uint32],
) -> float:
    total = 0.0
    size = 0
    for index in range(len(points)):
        point = points[index]
        size += 1 + int(point > 0x7F) + int(point > 0x7FF) + int(point > 0xFFFF)
        probability = 1e-5
        for row in range(len(orders)):
            start = index - orders[row] + 1
            if start >= 0:
                seen = counts[row, _slot(points, start, index + 1, row)]
                context = contexts[row, _slot(points, start, index, row)]
                # the hashed tables can collide, so a count may exceed its context's
                probability = (min(seen, context) + BACKOFF * probability) / (context + BACKOFF)
        total -= np.log2(probability)
    return total / max(1, size)
