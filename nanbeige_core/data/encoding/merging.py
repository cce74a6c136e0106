"""Merge the symbols of a piece by the rules of a byte-fallback BPE, compiled."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.encoding.scanning import point_at
from nanbeige_core.data.hashing import mix

LONGEST_PIECE = 4096
"""Symbols; merging takes the square of their number, so a document with a longer piece is left to the library."""

TOO_LONG = -1
NO_MERGE = np.uint64(0xFFFFFFFFFFFFFFFF)


@njit(cache=True, nogil=True)
def merge_piece(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    characters: NDArray[np.int32],
    byte_ids: NDArray[np.int32],
    merge_keys: NDArray[np.uint64],
    merge_values: NDArray[np.uint64],
    symbols: NDArray[np.int32],
    ranks: NDArray[np.uint64],
) -> int:
    """Write the ids of one piece into `symbols`; return how many, or TOO_LONG.

    A character without an id becomes its bytes. Then the pair of lowest rank, leftmost first, is merged until none is
    left. `ranks` is scratch of the size of `symbols`.
    """
    count = 0
    at = start
    while at < end:
        if count + 4 >= len(symbols):
            return TOO_LONG
        point, after = point_at(data, at, end)
        if characters[point] >= 0:
            symbols[count] = characters[point]
            count += 1
        else:
            for byte in data[at:after]:
                symbols[count] = byte_ids[byte]
                count += 1
        at = after
    for place in range(count - 1):
        ranks[place] = _find_merge(symbols[place], symbols[place + 1], merge_keys, merge_values)
    while count > 1:
        best = np.argmin(ranks[: count - 1])
        value = ranks[best]
        if value == NO_MERGE:
            break
        symbols[best] = np.int32(value & np.uint64(0xFFFFFFFF))
        for place in range(best + 1, count - 1):
            symbols[place] = symbols[place + 1]
            ranks[place] = ranks[place + 1]
        count -= 1
        if best > 0:
            ranks[best - 1] = _find_merge(symbols[best - 1], symbols[best], merge_keys, merge_values)
        if best < count - 1:
            ranks[best] = _find_merge(symbols[best], symbols[best + 1], merge_keys, merge_values)
    return count


@njit(cache=True, nogil=True)
def _find_merge(
    left: np.int32, right: np.int32, merge_keys: NDArray[np.uint64], merge_values: NDArray[np.uint64]
) -> np.uint64:
    """Return the rank and the new id of a pair, packed so that the lower rank compares smaller."""
    key = (np.uint64(left) << np.uint64(32)) | np.uint64(right)
    mask = np.uint64(len(merge_keys) - 1)
    slot = mix(key) & mask
    while merge_keys[slot] != NO_MERGE:
        if merge_keys[slot] == key:
            return merge_values[slot]
        slot = (slot + np.uint64(1)) & mask
    return NO_MERGE


@njit(cache=True)
def fill_merges(
    pairs: NDArray[np.int64], made: NDArray[np.int64], merge_keys: NDArray[np.uint64], merge_values: NDArray[np.uint64]
) -> None:
    """Enter the merges [M, 2], most important first, and the ids [M] that they make into an open-addressing table."""
    mask = np.uint64(len(merge_keys) - 1)
    for rank in range(len(pairs)):
        key = (np.uint64(pairs[rank, 0]) << np.uint64(32)) | np.uint64(pairs[rank, 1])
        slot = mix(key) & mask
        while merge_keys[slot] != NO_MERGE and merge_keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        merge_keys[slot] = key
        merge_values[slot] = (np.uint64(rank) << np.uint64(32)) | np.uint64(made[rank])
