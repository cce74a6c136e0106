"""Compiled kernels on the units of texts: shingles, minhash band keys. They release the GIL, so threads scale."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.dedup.units import hash_units_utf8
from nanbeige_core.data.hashing import FNV_PRIME, mix

# Shapes: D documents of a batch, B bands, M keys of a batch.

MOSTLY_CJK = 0.5
"""Share of units that are single characters (of Han, Thai and the like) from which shingles are character runs."""

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)

FOLD_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd; the first half of a fold is made with it, the second with the prime of FNV."""

_DIVIDED_BITS = 40
"""x // size is x * (2^40 // size + 1) >> 40 for every x below 2^24 and size below 2^16; dividing takes longer."""


@njit(cache=True, nogil=True)
def shingles_into(units: NDArray[np.uint64], count: int, size: int, shingles: NDArray[np.uint64]) -> int:
    """Write the hash of every run of `size` units into `shingles`; return how many there are."""
    total = max(0, count - size + 1)
    found = shingles[:total]
    begin = np.uint64(size) * FNV_PRIME
    for start in range(total):
        found[start] = mix(begin + units[start])
    # one unit of all runs after the other, so that the compiler can take several runs at once
    for offset in range(1, size if total else 0):
        units_S = units[offset : offset + total]
        for start in range(total):
            found[start] = mix(found[start] * FNV_PRIME + units_S[start])
    return total


@njit(cache=True, nogil=True)
def hash_bytes(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a hash of the bytes of each string [D]."""
    hashes = np.empty(len(offsets) - 1, np.uint64)
    for index in range(len(hashes)):
        value = np.uint64(offsets[index + 1] - offsets[index])
        for at in range(offsets[index], offsets[index + 1]):
            value = mix(value * np.uint64(31) + np.uint64(data[at]))
        hashes[index] = value
    return hashes


@njit(cache=True, nogil=True)
def fold_units(units: NDArray[np.uint64], count: int, factor: np.uint64) -> np.uint64:
    """Return 64 bits of the first `count` units in their order; another odd `factor` gives other bits.

    Every fourth unit goes into one of four lanes: a lane waits for itself, and four of them fill that time.
    """
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    first = second = third = fourth = np.uint64(count) + factor
    whole = count - count % 4
    for index in range(0, whole, 4):
        first = mix(first * factor + units[index])
        second = mix(second * factor + units[index + 1] + one)
        third = mix(third * factor + units[index + 2] + two)
        fourth = mix(fourth * factor + units[index + 3] + three)
    for index in range(whole, count):
        first = mix(first * factor + units[index])
    return mix(mix(mix(first * factor + second) * factor + third) * factor + fourth)


@njit(cache=True, nogil=True)
def fold_document(
    data: NDArray[np.uint8], start: int, end: int, units: NDArray[np.uint64], count: int
) -> tuple[np.uint64, np.uint64]:
    """Return 128 bits that two documents share when their units are the same in the same order.

    A text without units is folded byte by byte.
    """
    if count > 0:
        return fold_units(units, count, FOLD_FACTOR), fold_units(units, count, FNV_PRIME)
    first, second = np.uint64(0), np.uint64(end - start)
    for at in range(start, end):
        first = mix(first * FOLD_FACTOR + np.uint64(data[at]))
        second = mix(second + np.uint64(data[at]) * FNV_PRIME)
    return first, second


@njit(cache=True, nogil=True)
def bin_shingles(shingles: NDArray[np.uint64], total: int, seed: int, signature: NDArray[np.uint64]) -> None:
    """Write the one-permutation minhash signature (an empty bin is EMPTY); leaves `shingles` permuted."""
    signature[:] = EMPTY
    salt = mix(np.uint64(seed + 1))
    size = np.uint64(len(signature))
    reciprocal = np.uint64((1 << _DIVIDED_BITS) // len(signature) + 1)
    divide = len(signature) >= 1 << 16
    for index in range(total):
        shingles[index] = mix(shingles[index] ^ salt)
    for index in range(total):
        value = shingles[index]
        high = value >> np.uint64(40)
        quotient = high // size if divide else (high * reciprocal) >> np.uint64(_DIVIDED_BITS)
        slot = high - quotient * size
        # without a branch: which value is the lowest so far cannot be guessed
        signature[slot] = min(signature[slot], value & np.uint64(0xFFFFFFFFFF))


@njit(cache=True, nogil=True)
def band_keys_into(signature: NDArray[np.uint64], rows: int, keys: NDArray[np.uint64]) -> None:
    """Write one key per band of a signature (empty bins densified) into `keys`."""
    size = np.uint64(len(signature))
    for band in range(len(keys)):
        key = np.uint64(band)
        for row in range(rows):
            slot = band * rows + row
            low = signature[slot]
            attempt = 0
            # an empty bin borrows from a bin that depends on its number alone (optimal densification)
            while low == EMPTY:
                attempt += 1
                low = signature[np.int64(mix(np.uint64(slot * 7919 + attempt)) % size)]
            key = mix(key * np.uint64(31) + low)
        keys[band] = key


@njit(cache=True, nogil=True)
def longest_span(offsets: NDArray[np.int64]) -> int:
    """Return the bytes of the longest document of a batch, at least one: room for its units and its shingles."""
    longest = 1
    for index in range(len(offsets) - 1):
        longest = max(longest, offsets[index + 1] - offsets[index])
    return longest


@njit(cache=True, nogil=True)
def sign_batch(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lower: NDArray[np.uint32],
    words: int,
    characters: int,
    bands: int,
    rows: int,
    seed: int,
    keys_DB: NDArray[np.uint64],
    folds: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Fill the band keys [D, B] and folds [D] of a batch; return the number of shingles of each document [D]."""
    documents = len(offsets) - 1
    longest = longest_span(offsets)
    units = np.empty(longest, np.uint64)
    shingles = np.empty(longest, np.uint64)
    signature = np.empty(bands * rows, np.uint64)
    counts = np.zeros(documents, np.int64)
    for index in range(documents):
        start, end = offsets[index], offsets[index + 1]
        count, cjk = hash_units_utf8(data, start, end, lower, units)
        size = characters if cjk >= MOSTLY_CJK * max(1, count) else words
        counts[index] = shingles_into(units, count, size, shingles)
        if counts[index] > 0:
            folds[index] = fold_units(units, count, FOLD_FACTOR)
            bin_shingles(shingles, counts[index], seed, signature)
            band_keys_into(signature, rows, keys_DB[index])
        else:
            folds[index] = fold_document(data, start, end, units, count)[0]
    return counts


@njit(cache=True, nogil=True)
def sort_hashes(values: NDArray[np.uint64], count: int, room: NDArray[np.uint64]) -> None:
    """Sort the first `count` hashes in place: into buckets by their high bits, then by insertion.

    Hashes are spread evenly, so a bucket holds about one. `room` has space for as many values.
    """
    bits = 1
    while (1 << bits) < count and bits < 16:
        bits += 1
    shift = np.uint64(64 - bits)
    ends = np.zeros((1 << bits) + 1, np.int64)
    for index in range(count):
        ends[np.int64(values[index] >> shift) + 1] += 1
    for bucket in range(1 << bits):
        ends[bucket + 1] += ends[bucket]
    for index in range(count):
        bucket = np.int64(values[index] >> shift)
        room[ends[bucket]] = values[index]
        ends[bucket] += 1
    for index in range(count):
        value = room[index]
        place = index
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value


@njit(cache=True, nogil=True)
def shingle_sets(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lower: NDArray[np.uint32],
    words: int,
    characters: int,
    folds_D2: NDArray[np.uint64],
    sets: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Write the sorted distinct shingles of each document end to end into `sets`; return the size of each [D].

    `sets` needs room for one value per byte of text. `folds_D2` is filled with 128 bits per document.
    """
    documents = len(offsets) - 1
    longest = longest_span(offsets)
    units = np.empty(longest, np.uint64)
    shingles = np.empty(longest, np.uint64)
    room = np.empty(longest, np.uint64)
    sizes = np.zeros(documents, np.int64)
    written = 0
    for index in range(documents):
        start, end = offsets[index], offsets[index + 1]
        count, cjk = hash_units_utf8(data, start, end, lower, units)
        folds_D2[index, 0], folds_D2[index, 1] = fold_document(data, start, end, units, count)
        size = characters if cjk >= MOSTLY_CJK * max(1, count) else words
        total = shingles_into(units, count, size, shingles)
        sort_hashes(shingles, total, room)
        first = written
        for place in range(total):
            if place == 0 or shingles[place] != shingles[place - 1]:
                sets[written] = shingles[place]
                written += 1
        sizes[index] = written - first
    return sizes


@njit(cache=True, nogil=True)
def count_shingles(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    lower: NDArray[np.uint32],
    words: int,
    characters: int,
    table: NDArray[np.uint8],
) -> None:
    """Add each document's shingles to a table of saturating counts, indexed by their low bits."""
    documents = len(offsets) - 1
    longest = longest_span(offsets)
    units = np.empty(longest, np.uint64)
    shingles = np.empty(longest, np.uint64)
    mask = np.uint64(len(table) - 1)
    for index in range(documents):
        count, cjk = hash_units_utf8(data, offsets[index], offsets[index + 1], lower, units)
        size = characters if cjk >= MOSTLY_CJK * max(1, count) else words
        for place in range(shingles_into(units, count, size, shingles)):
            slot = shingles[place] & mask
            if table[slot] < 255:
                table[slot] += np.uint8(1)


@njit(cache=True, nogil=True)
def prefix_keys(
    sets: NDArray[np.uint64],
    sizes: NDArray[np.int64],
    table: NDArray[np.uint8],
    jaccard: float,
    keys: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Write each document's prefix into `keys` end to end; return how many keys each has [D].

    In one fixed order of all shingles, rarest first, two sets of Jaccard >= j share a shingle of their first
    n - ceil(j n) + 1 (prefix filtering, Chaudhuri et al. 2006). A shingle counted once occurs in no other document.
    """
    written = start = 0
    mask = np.uint64(len(table) - 1)
    counts = np.zeros(len(sizes), np.int64)
    for index in range(len(sizes)):
        size = sizes[index]
        prefix = size - int(np.ceil(jaccard * size - 1e-9)) + 1
        lonely = 0
        for place in range(size):
            lonely += table[sets[start + place] & mask] == 1
        if size > 0 and lonely < prefix:
            frequency = np.empty(size, np.uint8)
            for place in range(size):
                frequency[place] = table[sets[start + place] & mask]
            # sets are sorted by value, so a stable sort gives the order (count, value)
            order = np.argsort(frequency, kind="mergesort")
            for place in order[lonely:prefix]:
                keys[written] = sets[start + place]
                written += 1
            counts[index] = prefix - lonely
        start += size
    return counts
