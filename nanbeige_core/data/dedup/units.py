"""Hash the units of UTF-8 text, compiled: words, and single characters of scripts without spaces.

Values agree with `nanbeige_core.data.hashing` on Python strings, except that the two lower-case sigmas are one
letter and the dotted capital I, whose lower case is two code points, keeps its case.
"""

import functools
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.hashing import FNV_OFFSET, FNV_PRIME, is_unsegmented, is_word

_CASED = 0x1E944
"""No code point from here on has a lower-case form."""
_REPLACEMENT = np.uint32(0xFFFD)
_UNIT_BYTES = np.array(
    [ord(chr(byte).lower()) if byte < 128 and (chr(byte).isalnum() or byte == ord("_")) else 0 for byte in range(256)],
    np.uint8,
)
"""The lower-case letter, digit or underscore that an ASCII byte is, else 0."""
_BLOCK = 64
_TWO_LANES = 2 * _BLOCK
"""ASCII bytes from which a run is worth two lanes."""


@functools.cache
def lower_table() -> NDArray[np.uint32]:
    """Return the lower-case code point of every code point that has a single one."""
    table = np.arange(_CASED, dtype=np.uint32)
    for point in range(_CASED):
        low = chr(point).lower() if not 0xD800 <= point < 0xE000 else ""
        if len(low) == 1:
            table[point] = ord(low)
    table[ord("ς")] = ord("σ")
    return table


@njit(cache=True, nogil=True)
def decode_point(data: NDArray[np.uint8], at: int, end: int) -> tuple[np.uint32, int]:
    """Return the code point at a byte and the position after it; a malformed byte is a replacement character."""
    first = np.uint32(data[at])
    extra = 0
    if 0xC2 <= first < 0xE0:
        extra, point = 1, first & np.uint32(0x1F)
    elif 0xE0 <= first < 0xF0:
        extra, point = 2, first & np.uint32(0x0F)
    elif 0xF0 <= first < 0xF5:
        extra, point = 3, first & np.uint32(0x07)
    else:
        return _REPLACEMENT, at + 1
    if at + extra >= end:
        return _REPLACEMENT, at + 1
    for offset in range(1, extra + 1):
        byte = np.uint32(data[at + offset])
        if byte & np.uint32(0xC0) != np.uint32(0x80):
            return _REPLACEMENT, at + 1
        point = (point << np.uint32(6)) | (byte & np.uint32(0x3F))
    return point, at + 1 + extra


@njit(cache=True, nogil=True)
def hash_units_utf8(
    data: NDArray[np.uint8], start: int, end: int, lower: NDArray[np.uint32], units: NDArray[np.uint64]
) -> tuple[int, int]:
    """Write the hash of each unit of `data[start:end]` into `units`; return how many, how many are one character."""
    count = cjk = 0
    inside = False
    current = FNV_OFFSET
    at = start
    while at < end:
        plain = _ascii_blocks(data, at, end)
        if plain >= _TWO_LANES:
            count, current, inside = _hash_ascii(data, at, at + plain, units, count, current, inside)
            at += plain
        limit = min(end, at + _BLOCK)
        while at < limit:
            if data[at] < 128:
                point = np.uint64(_UNIT_BYTES[data[at]])
                at += 1
                if point != 0:
                    current = (current ^ point) * FNV_PRIME
                    inside = True
                    continue
            else:
                wide, at = decode_point(data, at, end)
                if wide < _CASED:
                    wide = lower[wide]
                if is_unsegmented(wide):
                    if inside:
                        units[count] = current
                        count += 1
                    units[count] = (FNV_OFFSET ^ np.uint64(wide)) * FNV_PRIME
                    count += 1
                    cjk += 1
                    current, inside = FNV_OFFSET, False
                    continue
                if is_word(wide):
                    current = (current ^ np.uint64(wide)) * FNV_PRIME
                    inside = True
                    continue
            if inside:
                units[count] = current
                count += 1
                current, inside = FNV_OFFSET, False
    if inside:
        units[count] = current
        count += 1
    return count, cjk


@njit(cache=True, nogil=True)
def _ascii_blocks(data: NDArray[np.uint8], at: int, end: int) -> int:
    """Return how many bytes the blocks from `at` on have that hold ASCII alone."""
    size = 0
    while at + size + _BLOCK <= end:
        bits = np.uint8(0)
        for byte in data[at + size : at + size + _BLOCK]:
            bits |= byte
        if bits >= 128:
            break
        size += _BLOCK
    return size


@njit(cache=True, nogil=True)
def _hash_ascii(
    data: NDArray[np.uint8],
    start: int,
    end: int,
    units: NDArray[np.uint64],
    count: int,
    current: Any,
    inside: bool,
) -> tuple[Any, Any, bool]:
    """Hash the units of ASCII text, beginning in the one that `current` is of; return count, hash, inside or not.

    A hash depends on each byte before, so that a unit takes its bytes times the latency of a multiplication. Two halves
    of the text, cut between units, are hashed side by side, and without a branch at the end of a unit.
    """
    middle = start + (end - start) // 2
    while middle < end and _UNIT_BYTES[data[middle]] != 0:
        middle += 1
    left, right = data[start:middle], data[middle:end]
    # the second half's units wait where the first half's cannot reach
    waiting = np.uint64(count + len(left) // 2 + 2)
    at_left, in_left, left_hash = np.uint64(count), np.uint64(inside), current
    at_right, in_right, right_hash = waiting, np.uint64(0), FNV_OFFSET
    common = min(len(left), len(right))
    for at in range(common):
        at_left, in_left, left_hash = _step(left[at], units, at_left, in_left, left_hash)
        at_right, in_right, right_hash = _step(right[at], units, at_right, in_right, right_hash)
    for byte in left[common:]:
        at_left, in_left, left_hash = _step(byte, units, at_left, in_left, left_hash)
    for byte in right[common:]:
        at_right, in_right, right_hash = _step(byte, units, at_right, in_right, right_hash)
    if middle == end:
        return np.int64(at_left), left_hash, in_left != 0
    units[at_left] = left_hash
    at_left += in_left
    for place in range(at_right - waiting):
        units[at_left + place] = units[waiting + place]
    return np.int64(at_left + at_right - waiting), right_hash, in_right != 0


@njit(inline="always")
def _step(
    byte: np.uint8, units: NDArray[np.uint64], count: np.uint64, inside: np.uint64, current: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Take one byte: a letter goes into the hash, anything else ends the unit, if there is one."""
    low = np.uint64(_UNIT_BYTES[byte])
    letter = low != 0
    units[count] = current
    # a comparison and a choice, which compile to no branch; factors out of tables take two thirds longer
    return (
        count + np.uint64(inside > letter),
        np.uint64(letter),
        (current ^ low) * FNV_PRIME if letter else FNV_OFFSET,
    )
