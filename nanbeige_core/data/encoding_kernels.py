"""Compiled encoding of UTF-8 text by the project's tokenizer: split into pieces, look pieces up, merge the new ones.

The split is the regular expression of `tokenizer.SPLIT_PATTERN` as a scanner over character classes; the alternatives
are tried in its order. A piece that was met before costs one look-up.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.dedup.kernels import decode_point
from nanbeige_core.data.hashing import FNV_OFFSET, FNV_PRIME, mix

NUMBER, HAN, WORD, SPACE, OTHER = 1, 2, 4, 8, 16
"""Classes of a code point, as bits: \\p{N}, \\p{Han}, letters with marks and underscore, \\s, and what is none of
N, L, M, underscore, space or backslash."""

LONGEST_CACHED = 64
"""Bytes; a longer piece is merged anew each time."""

LONGEST_PIECE = 4096
"""Symbols; merging takes the square of their number, so a document with a longer piece is left to the library."""

TOO_LONG = -1

SHORT = 16
"""Bytes of a piece that the front table holds."""

FRONT_IDS = 10
FRONT_WORDS = 3 + FRONT_IDS // 2
"""Of 64 bits in a row of the front table: one cache line."""


# What runs for every byte is inlined: a call that passes arrays counts references, which costs more than the work.


@njit(cache=True, nogil=True)
def point_at(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.uint32, int]:
    """Return the code point at a byte and the position after it."""
    if data[at] < 128:
        return np.uint32(data[at]), at + 1
    return decode_point(data, at, end)


@njit(inline="always")
def next_piece(data: NDArray[np.uint8], start: int, end: int, classes: NDArray[np.uint8]) -> int:
    """Return where the piece that begins at `start` ends."""
    begin = start
    after = start + 1
    point = np.uint32(data[start])
    if point >= 128:
        point, after = decode_point(data, start, end)
    kind = classes[point]
    if point == 32 and after < end:
        follow = after + 1
        second = np.uint32(data[after])
        if second >= 128:
            second, follow = decode_point(data, after, end)
        if classes[second] & (HAN | WORD | OTHER):
            begin, after, kind, point = after, follow, classes[second], second
    if kind & NUMBER and begin == start:
        at = after
    elif point == 92 and begin == start:
        at = _end_of_command(data, after, end)
    elif kind & (HAN | WORD | OTHER):
        wanted = np.uint8(OTHER)
        if kind & HAN:
            wanted = np.uint8(HAN)
        elif kind & WORD:
            wanted = np.uint8(WORD)
        at = _end_of_run(data, after, end, classes, wanted)
    else:
        at = _end_of_space(data, begin, end, classes)
    return at


@njit(inline="always")
def _end_of_run(data: NDArray[np.uint8], at: int, end: int, classes: NDArray[np.uint8], wanted: np.uint8) -> int:
    inside = True
    while inside and at < end:
        after = at + 1
        point = np.uint32(data[at])
        if point >= 128:
            point, after = decode_point(data, at, end)
        inside = (classes[point] & wanted) != 0
        if inside:
            at = after
    return at


@njit(cache=True, nogil=True)
def _end_of_command(data: NDArray[np.uint8], after: int, end: int) -> int:
    at = after
    while at < end and (97 <= data[at] <= 122 or 65 <= data[at] <= 90):
        at += 1
    return at + 1 if at > after and at < end and data[at] == 123 else at


@njit(cache=True, nogil=True)
def _end_of_space(data: NDArray[np.uint8], start: int, end: int, classes: NDArray[np.uint8]) -> int:
    at = start
    while at < end and (data[at] == 32 or data[at] == 9):
        at += 1
    if at < end and (data[at] == 10 or data[at] == 13):
        while at < end and (data[at] == 10 or data[at] == 13):
            at += 1
        return at
    at = last = start
    while at < end:
        point, after = point_at(data, at, end)
        if not classes[point] & SPACE:
            # a run of spaces leaves its last one to what follows, unless it is the only one
            return last if last > start else at
        last, at = at, after
    return end


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


NO_MERGE = np.uint64(0xFFFFFFFFFFFFFFFF)


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


@njit(inline="always")
def short_word(
    data: NDArray[np.uint8], at: int, stop: int, classes: NDArray[np.uint8]
) -> tuple[int, np.uint64, np.uint64]:
    """Return where a word of ASCII letters with at most one space in front ends, and its bytes as two words.

    The end is 0 when the piece that begins at `at` is of another kind, or longer than SHORT bytes.
    """
    low, high = np.uint64(0), np.uint64(0)
    place = at
    if data[place] == 32:
        low = np.uint64(32)
        place += 1
    begin = place
    last = min(stop, at + SHORT)
    while place < last and data[place] < 128 and classes[data[place]] & WORD:
        low, high = _append(low, high, data[place], place - at)
        place += 1
    if place == begin or (place < stop and (data[place] >= 128 or classes[data[place]] & WORD)):
        return 0, low, high
    return place, low, high


@njit(inline="always")
def short_bytes(data: NDArray[np.uint8], start: int, end: int) -> tuple[np.uint64, np.uint64]:
    """Return at most SHORT bytes as two words."""
    low, high = np.uint64(0), np.uint64(0)
    for place in range(start, end):
        low, high = _append(low, high, data[place], place - start)
    return low, high


@njit(inline="always")
def _append(low: np.uint64, high: np.uint64, byte: np.uint8, place: int) -> tuple[np.uint64, np.uint64]:
    if place < 8:
        return low | np.uint64(byte) << np.uint64(8 * place), high
    return low, high | np.uint64(byte) << np.uint64(8 * (place - 8))


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
