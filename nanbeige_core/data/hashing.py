"""Compiled text kernels: code points, word hashes, shingles. Shared by the tagger and the duplicate finder.

A unit is a lowercased run of letters, digits and underscores, or one CJK character, since Chinese is not segmented.
Punctuation separates units and vanishes, so `a.b` and `a b` have the same units.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

FNV_OFFSET = np.uint64(14695981039346656037)
FNV_PRIME = np.uint64(1099511628211)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code points of a text; a lone surrogate becomes a replacement character."""
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype=np.uint32)


def unit_hashes(text: str) -> tuple[NDArray[np.uint64], float]:
    """Return the hash of each unit of a lowercased text in order, and the share of units that are CJK."""
    points = code_points(text.lower())
    hashes, cjk = hash_units(points)
    return hashes, cjk / max(1, len(hashes))


@njit(cache=True)
def is_cjk(point: int) -> bool:
    """Tell CJK ideographs."""
    return 0x3400 <= point <= 0x9FFF or 0xF900 <= point <= 0xFAFF or 0x20000 <= point <= 0x3FFFF


@njit(cache=True)
def is_word(point: int) -> bool:
    """Tell letters, digits and underscore; beyond Latin-1 all but the punctuation blocks."""
    if point < 128:
        return 48 <= point <= 57 or 97 <= point <= 122 or 65 <= point <= 90 or point == 95
    if point < 0xC0 or point == 0xD7 or point == 0xF7:
        return False
    if 0x2000 <= point <= 0x2BFF or 0x3000 <= point <= 0x303F or 0xFE10 <= point <= 0xFE6F:
        return False
    return not (0xFF00 <= point <= 0xFF0F or 0xFF1A <= point <= 0xFF20 or 0xFF3B <= point <= 0xFF40)


@njit(cache=True)
def mix(value: np.uint64) -> np.uint64:
    """Spread the bits of a 64-bit value (the finaliser of splitmix64)."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True)
def hash_units(points: NDArray[np.uint32]) -> tuple[NDArray[np.uint64], int]:
    """Return the FNV-1a hash of each unit and the number of CJK units."""
    hashes = np.empty(len(points), dtype=np.uint64)
    count = 0
    cjk = 0
    inside = False
    current = FNV_OFFSET
    for point in points:
        if is_cjk(point):
            if inside:
                hashes[count] = current
                count += 1
                inside = False
            hashes[count] = (FNV_OFFSET ^ np.uint64(point)) * FNV_PRIME
            count += 1
            cjk += 1
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
    return hashes[:count].copy(), cjk


@njit(cache=True)
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
