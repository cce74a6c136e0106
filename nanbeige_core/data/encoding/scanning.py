"""Find the pieces of UTF-8 text: the regular expression of `tokenizer.SPLIT_PATTERN` as a compiled scanner.

Its alternatives are tried in its order, over classes of characters.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.dedup.units import decode_point

NUMBER, HAN, WORD, SPACE, OTHER = 1, 2, 4, 8, 16
"""Classes of a code point, as bits: \\p{N}, \\p{Han}, letters with marks and underscore, \\s, and what is none of
N, L, M, underscore, space or backslash."""

SHORT = 16
"""Bytes of a piece that fit into two words."""


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
