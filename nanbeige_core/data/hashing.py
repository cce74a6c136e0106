"""Compiled text kernels: code points, word hashes, shingles. Shared by the tagger and the duplicate finder.

A unit is a lowercased run of letters, digits and underscores, or one character of a script that does not part words:
Han, kana, Thai, Lao, Khmer, Myanmar.
Punctuation separates units and vanishes, so `a.b` and `a b` have the same units.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

FNV_OFFSET = np.uint64(14695981039346656037)
FNV_PRIME = np.uint64(1099511628211)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points of a text; a lone surrogate becomes a replacement character."""
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32)


class Points(NamedTuple):
    """The code points of D lowercased texts end to end, and D + 1 offsets into them."""

    points: NDArray[np.uint32]
    offsets: NDArray[np.int64]


def join_points(texts: Sequence[str]) -> Points:
    """Return the code points of lowercased texts, for kernels that take a batch at a time."""
    # each by itself: what the last sigma of a text becomes must not depend on the next text
    lowered = [text.lower() for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in lowered], out=offsets[1:])
    return Points(code_points("".join(lowered)), offsets)


def unit_hashes(text: str) -> tuple[NDArray[np.uint64], float]:
    """Return the hash of each unit of a lowercased text in order, and the share of units that are characters."""
    points = code_points(text.lower())
    hashes, characters = hash_units(points, True)
    return hashes, characters / max(1, len(hashes))


@njit(cache=True, nogil=True)
def is_cjk(point: int) -> bool:
    """Tell CJK ideographs."""
    return 0x3400 <= point <= 0x9FFF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x3FFFF


@njit(cache=True, nogil=True)
def is_spelled(point: int) -> bool:
    """Tell the scripts that spell out words without parting them: kana, Thai, Lao, Khmer, Myanmar."""
    if point < 0x0E00 or 0x1100 <= point < 0x1780 or 0x1800 <= point < 0x3041:
        return False
    if point < 0x1800:
        return point <= 0x0EFF or 0x1000 <= point <= 0x109F or point >= 0x1780
    kana = point <= 0x30FF or 0x31F0 <= point <= 0x31FF or 0xFF66 <= point <= 0xFF9F
    return kana or 0xA9E0 <= point <= 0xA9FF or 0xAA60 <= point <= 0xAA7F


@njit(cache=True, nogil=True)
def is_unsegmented(point: int) -> bool:
    """Tell characters of scripts that do not part words; each is a unit of its own."""
    return is_cjk(point) or is_spelled(point)


@njit(cache=True, nogil=True)
def is_word(point: int) -> bool:
    """Tell letters, digits and underscore; beyond Latin-1 all but the punctuation blocks."""
    if point < 128:
        return 48 <= point <= 57 or 97 <= point <= 122 or 65 <= point <= 90 or point == 95
    if point < 0xC0 or point == 0xD7 or point == 0xF7:
        return False
    if 0x2000 <= point <= 0x2BFF or 0x3000 <= point <= 0x303F or 0xFE10 <= point <= 0xFE6F:
        return False
    return not (0xFF00 <= point <= 0xFF0F or 0xFF1A <= point <= 0xFF20 or 0xFF3B <= point <= 0xFF40)


@njit(cache=True, nogil=True)
def mix(value: np.uint64) -> np.uint64:
    """Spread the bits of a 64-bit value (the finaliser of splitmix64)."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def hash_units(points: NDArray[np.uint32], spelled: bool) -> tuple[NDArray[np.uint64], int]:
    """Return the FNV-1a hash of each unit and the number of units that are single characters.

    With `spelled` the characters of kana, Thai and the like are units; else a run of them is one word.
    """
    hashes = np.empty(len(points), dtype=np.uint64)
    count = 0
    characters = 0
    inside = False
    current = FNV_OFFSET
    for point in points:
        if is_cjk(point) or (spelled and is_spelled(point)):
            if inside:
                hashes[count] = current
                count += 1
                inside = False
            hashes[count] = (FNV_OFFSET ^ np.uint64(point)) * FNV_PRIME
            count += 1
            characters += 1
        elif is_word(point):
            if not inside:
                current = FNV_OFFSET
                inside = True
            current = (current ^ np.uint64(point)) * FNV_PRIME
        elif inside:
            hashes[count] = current
            count += 1
            inside = False
    if inside:
        hashes[count] = current
        count += 1
    return hashes[:count].copy(), characters


@njit(cache=True, nogil=True)
def shingle_hashes(units: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """Return the hash of every run of `size` units, in order; empty when the text is shorter."""
    count = max(0, len(units) - size + 1)
    shingles = np.empty(count, dtype=np.uint64)
    for start in range(count):
        value = np.uint64(size)
        for offset in range(size):
            value = mix(value * FNV_PRIME + units[start + offset])
        shingles[start] = value
    return shingles
