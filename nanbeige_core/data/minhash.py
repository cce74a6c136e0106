"""Near-duplicates: one-permutation minhash bands propose, exact Jaccard decides, the best document stays.

A document is removed only when a document that is *kept* verifies at the threshold. Connected components would also
remove documents that resemble only another removed one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.hashing import mix, shingle_hashes, unit_hashes

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
MOSTLY_CJK = 0.5
"""Share of CJK units from which shingles are character runs."""

BUCKET_LIMIT = 256
"""Kept documents compared per band bucket; a guard against templates, counted in the report."""


@dataclass(frozen=True)
class Removal:
    """Evidence of one removal: the kept document and the verified similarity."""

    index: int
    kept: int
    similarity: float


@dataclass(frozen=True)
class Deduplication:
    """The removals, how many pairs were compared, and how many comparisons the bucket guard skipped."""

    removals: list[Removal]
    verified_pairs: int
    skipped_pairs: int


def shingle_set(text: str, words: int, characters: int) -> NDArray[np.uint64]:
    """Return the sorted distinct shingles of a text: word runs, or character runs for mostly Chinese text."""
    units, cjk = unit_hashes(text)
    return np.unique(shingle_hashes(units, characters if cjk >= MOSTLY_CJK else words))


def exact_key(text: str) -> tuple[int, ...] | str:
    """Return what two texts share exactly when they have the same units in the same order."""
    units, _ = unit_hashes(text)
    return (len(units), int(_fold(units))) if len(units) else text


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Return the Jaccard similarity of two sorted distinct arrays; 0 when either is empty."""
    return float(_jaccard(first, second))


def find_near_duplicates(
    sets: Sequence[NDArray[np.uint64]],
    order: Sequence[int],
    *,
    bands: int,
    rows: int,
    threshold: float,
    seed: int,
) -> Deduplication:
    """Go through documents in `order` (best first) and remove each that verifies against a kept one.

    `sets` are shingle sets; an empty one (text shorter than a shingle) is neither removed nor a reason to remove.
    """
    buckets: dict[tuple[int, int], list[int]] = {}
    removals: list[Removal] = []
    verified = skipped = 0
    for index in order:
        if len(sets[index]) == 0:
            continue
        keys = [(band, int(key)) for band, key in enumerate(band_keys(sets[index], bands, rows, seed))]
        candidates = sorted({kept for key in keys for kept in buckets.get(key, ())})
        similarities = [jaccard(sets[index], sets[kept]) for kept in candidates]
        verified += len(candidates)
        best = max(range(len(candidates)), key=similarities.__getitem__, default=None)
        if best is not None and similarities[best] >= threshold:
            removals.append(Removal(index, candidates[best], similarities[best]))
            continue
        for key in keys:
            bucket = buckets.setdefault(key, [])
            if len(bucket) < BUCKET_LIMIT:
                bucket.append(index)
            else:
                skipped += 1
    return Deduplication(removals, verified, skipped)


def band_keys(shingles: NDArray[np.uint64], bands: int, rows: int, seed: int) -> NDArray[np.uint64]:
    """Return one key per band of the one-permutation minhash signature (empty bins densified)."""
    return _band_keys(shingles, bands, rows, seed)


@njit(cache=True)
def _fold(units: NDArray[np.uint64]) -> np.uint64:
    value = np.uint64(len(units))
    for unit in units:
        value = mix(value * np.uint64(31) + unit)
    return value


@njit(cache=True)
def _jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    left = right = shared = 0
    while left < len(first) and right < len(second):
        if first[left] == second[right]:
            shared += 1
            left += 1
            right += 1
        elif first[left] < second[right]:
            left += 1
        else:
            right += 1
    union = len(first) + len(second) - shared
    return shared / union if len(first) and len(second) else 0.0


@njit(cache=True)
def _band_keys(shingles: NDArray[np.uint64], bands: int, rows: int, seed: int) -> NDArray[np.uint64]:
    bins = bands * rows
    signature = np.full(bins, EMPTY, dtype=np.uint64)
    for shingle in shingles:
        value = mix(shingle ^ mix(np.uint64(seed + 1)))
        slot = int((value >> np.uint64(40)) % np.uint64(bins))
        low = value & np.uint64(0xFFFFFFFFFF)
        if low < signature[slot]:
            signature[slot] = low
    filled = signature.copy()
    for slot in range(bins):
        attempt = 0
        # an empty bin borrows from a bin that depends on its number alone (optimal densification)
        while filled[slot] == EMPTY:
            attempt += 1
            other = int(mix(np.uint64(slot * 7919 + attempt)) % np.uint64(bins))
            filled[slot] = signature[other]
    keys = np.empty(bands, dtype=np.uint64)
    for band in range(bands):
        key = np.uint64(band)
        for row in range(rows):
            key = mix(key * np.uint64(31) + filled[band * rows + row])
        keys[band] = key
    return keys
