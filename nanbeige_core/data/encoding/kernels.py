"""Compiled encoding of UTF-8 text by the project's byte-fallback tokenizer.

A piece that was met before costs one look-up.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.encoding.merging import LONGEST_PIECE, TOO_LONG, merge_piece
from nanbeige_core.data.encoding.scanning import SHORT, next_piece, short_bytes, short_word
from nanbeige_core.data.hashing import FNV_OFFSET, FNV_PRIME, mix

LONGEST_CACHED = 64
"""Bytes; a longer piece is merged anew each time."""

FRONT_IDS = 10
FRONT_WORDS = 3 + FRONT_IDS // 2
"""Of 64 bits in a row of the front table: one cache line."""


@njit(inline="always")
def remember(
    front: NDArray[np.uint64],
    place: np.uint64,
    low: np.uint64,
    high: np.uint64,
    size: int,
    tokens: NDArray[np.integer],
    first: int,
    end: int,
) -> None:
    """Put a short piece and its ids, two to a word, into a row of the front table; too many ids leave it alone."""
    count = end - first
    if count <= FRONT_IDS:
        front[place, 0], front[place, 1], front[place, 2] = low, high, np.uint64(size << 8 | count)
        for word in range((count + 1) // 2):
            value = np.uint64(tokens[first + 2 * word])
            if 2 * word + 1 < count:
                value |= np.uint64(tokens[first + 2 * word + 1]) << np.uint64(32)
            front[place, 3 + word] = value


@njit(cache=True, nogil=True)
def encode_piece(
    data: NDArray[np.uint8],
    at: int,
    after: int,
    characters: NDArray[np.int32],
    byte_ids: NDArray[np.int32],
    merge_keys: NDArray[np.uint64],
    merge_values: NDArray[np.uint64],
    slots: NDArray[np.int64],
    arena: NDArray[np.uint8],
    spans: NDArray[np.int32],
    pool: NDArray[np.int32],
    used: NDArray[np.int64],
    symbols: NDArray[np.int32],
    ranks: NDArray[np.uint64],
    tokens: NDArray[np.integer],
    written: int,
) -> int:
    """Write the ids of a piece through the large table; return how many ids there are then, or TOO_LONG."""
    size = after - at
    slot = np.uint64(0)
    if size <= LONGEST_CACHED:
        slot, entry = _find_entry(data, at, after, slots, arena, spans)
        if entry >= 0:
            for place in range(spans[entry, 2], spans[entry, 3]):
                tokens[written] = pool[place]
                written += 1
            return written
    count = merge_piece(data, at, after, characters, byte_ids, merge_keys, merge_values, symbols, ranks)
    if count == TOO_LONG:
        return TOO_LONG
    for place in range(count):
        tokens[written + place] = symbols[place]
    room = used[0] < len(spans) and used[1] + size <= len(arena) and used[2] + count <= len(pool)
    if size <= LONGEST_CACHED and room and used[0] * 2 < len(slots):
        entry = used[0]
        spans[entry, 0], spans[entry, 1] = used[1], used[1] + size
        spans[entry, 2], spans[entry, 3] = used[2], used[2] + count
        arena[used[1] : used[1] + size] = data[at:after]
        pool[used[2] : used[2] + count] = symbols[:count]
        slots[slot] = entry
        used[0] += 1
        used[1] += size
        used[2] += count
    return written + count


@njit(cache=True, nogil=True)
def _find_entry(
    data: NDArray[np.uint8],
    at: int,
    after: int,
    slots: NDArray[np.int64],
    arena: NDArray[np.uint8],
    spans: NDArray[np.int32],
) -> tuple[np.uint64, int]:
    """Return the slot of a piece and its entry, or the free slot where it belongs and -1."""
    mask = np.uint64(len(slots) - 1)
    size = after - at
    hashed = FNV_OFFSET
    for place in range(at, after):
        hashed = (hashed ^ np.uint64(data[place])) * FNV_PRIME
    slot = mix(hashed) & mask
    entry = slots[slot]
    while entry >= 0:
        begin = spans[entry, 0]
        same = spans[entry, 1] - begin == size
        place = 0
        while same and place < size:
            same = arena[begin + place] == data[at + place]
            place += 1
        if same:
            break
        slot = (slot + np.uint64(1)) & mask
        entry = slots[slot]
    return slot, entry


@njit(cache=True, nogil=True)
def encode_batch(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    cuts: NDArray[np.int64],
    end_id: int,
    classes: NDArray[np.uint8],
    characters: NDArray[np.int32],
    byte_ids: NDArray[np.int32],
    merge_keys: NDArray[np.uint64],
    merge_values: NDArray[np.uint64],
    front: NDArray[np.uint64],
    slots: NDArray[np.int64],
    arena: NDArray[np.uint8],
    spans: NDArray[np.int32],
    pool: NDArray[np.int32],
    used: NDArray[np.int64],
    tokens: NDArray[np.integer],
    lengths: NDArray[np.int64],
) -> int:
    """Write the ids of each document and the end token into `tokens`; return how many ids that makes.

    `cuts` [C, 3] are the places of control tokens, in order: first byte, byte after, id. A document that holds a piece
    that is too long gets length -1 and no ids. A short piece is first looked up in `front`, one cache line for each
    place: its bytes, its size and number of ids, its ids. `slots` is a hash table of entry numbers; entry e has its
    bytes in `arena[spans[e,0]:spans[e,1]]` and its ids in `pool[spans[e,2]:spans[e,3]]`; `used` counts entries, bytes
    and ids.
    """
    symbols = np.empty(LONGEST_PIECE, np.int32)
    ranks = np.empty(LONGEST_PIECE, np.uint64)
    mask = np.uint64(len(front) - 1)
    written = cut = 0
    for document in range(len(offsets) - 1):
        first = written
        at, end = offsets[document], offsets[document + 1]
        failed = False
        while at < end:
            while cut < len(cuts) and cuts[cut, 0] < at:
                cut += 1
            if cut < len(cuts) and cuts[cut, 0] == at:
                tokens[written] = cuts[cut, 2]
                written += 1
                at = cuts[cut, 1]
                continue
            stop = min(end, cuts[cut, 0]) if cut < len(cuts) else end
            after, low, high = short_word(data, at, stop, classes)
            if after == 0:
                after = next_piece(data, at, stop, classes)
                if after - at <= SHORT:
                    low, high = short_bytes(data, at, after)
            size = after - at
            place = np.uint64(0)
            if size <= SHORT:
                place = mix(low ^ high * FNV_PRIME ^ np.uint64(size)) & mask
                known = front[place, 2]
                if front[place, 0] == low and front[place, 1] == high and known >> np.uint64(8) == np.uint64(size):
                    count = int(known & np.uint64(255))
                    for number in range(count):
                        word = front[place, 3 + number // 2] >> np.uint64(32 * (number % 2))
                        tokens[written + number] = np.int32(word & np.uint64(0xFFFFFFFF))
                    written += count
                    at = after
                    continue
            before = written
            written = encode_piece(
                data, at, after, characters, byte_ids, merge_keys, merge_values, slots, arena, spans, pool, used,
                symbols, ranks, tokens, written,
            )  # fmt: skip
            if written == TOO_LONG:
                failed = True
                break
            if size <= SHORT:
                remember(front, place, low, high, size, tokens, before, written)
            at = after
        if failed:
            written = first
            lengths[document] = -1
            continue
        tokens[written] = end_id
        written += 1
        lengths[document] = written - first
    return written
