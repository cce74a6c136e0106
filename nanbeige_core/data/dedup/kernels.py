"""Compiled kernels on UTF-8 buffers: units, shingles, minhash band keys. They release the GIL, so threads scale.

Values agree with `nanbeige_core.data.hashing` on Python strings, except that the two lower-case sigmas are one
letter and the dotted capital I, whose lower case is two code points, keeps its case.
"""

import functools

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.hashing import FNV_OFFSET, FNV_PRIME, is_unsegmented, is_word, mix

# Shapes: D documents of a batch, B bands, M keys of a batch.

MOSTLY_CJK = 0.5
"""Share of units that are single characters (of Han, Thai and the like) from which shingles are character runs."""

EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_CASED = 0x1E944
"""No code point from here on has a lower-case form."""
_REPLACEMENT = np.uint32(0xFFFD)
_UNIT_BYTES = np.array(
    [ord(chr(byte).lower()) if byte < 128 and (chr(byte).isalnum() or byte == ord("_")) else 0 for byte in range(256)],
    np.uint64,
)
"""The lower-case letter, digit or underscore that an ASCII byte is, else 0."""

_DIVIDED_BITS = 40
"""x // size is x * (2^40 // size + 1) >> 40 for every x below 2^24 and size below 2^16; dividing takes longer."""


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
    """Write the hash of each unit of `data[start:end]` into `units`; return how many there are and how many are CJK."""
    count = cjk = 0
    inside = False
    current = FNV_OFFSET
    at = start
    while at < end:
        byte = data[at]
        if byte < 128:
            point = _UNIT_BYTES[byte]
            if point == 0:
                if inside:
                    units[count] = current
                    count += 1
                    inside = False
                at += 1
                continue
            if not inside:
                current = FNV_OFFSET
                inside = True
            # most of the time goes here: one look-up and one test a byte
            while point != 0:
                current = (current ^ point) * FNV_PRIME
                at += 1
                point = _UNIT_BYTES[data[at]] if at < end else np.uint64(0)
            continue
        wide, at = decode_point(data, at, end)
        if wide < _CASED:
            wide = lower[wide]
        if is_unsegmented(wide):
            if inside:
                units[count] = current
                count += 1
                inside = False
            units[count] = (FNV_OFFSET ^ np.uint64(wide)) * FNV_PRIME
            count += 1
            cjk += 1
        elif is_word(wide):
            if not inside:
                current = FNV_OFFSET
                inside = True
            current = (current ^ np.uint64(wide)) * FNV_PRIME
        elif inside:
            units[count] = current
            count += 1
            inside = False
    if inside:
        units[count] = current
        count += 1
    return count, cjk


@njit(cache=True, nogil=True)
def shingles_into(units: NDArray[np.uint64], count: int, size: int, shingles: NDArray[np.uint64]) -> int:
    """Write the hash of every run of `size` units into `shingles`; return how many there are."""
    total = max(0, count - size + 1)
    for start in range(total):
        value = np.uint64(size)
        for offset in range(size):
            value = mix(value * FNV_PRIME + units[start + offset])
        shingles[start] = value
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
def fold_document(
    data: NDArray[np.uint8], start: int, end: int, units: NDArray[np.uint64], count: int
) -> tuple[np.uint64, np.uint64]:
    """Return 128 bits that two documents share when their units are the same in the same order.

    A text without units is folded byte by byte.
    """
    first, second = np.uint64(count), np.uint64(end - start if count == 0 else 0x9E3779B97F4A7C15)
    if count == 0:
        for at in range(start, end):
            first = mix(first * np.uint64(31) + np.uint64(data[at]))
            second = mix(second + np.uint64(data[at]) * FNV_PRIME)
        return first, second
    for index in range(count):
        first = mix(first * np.uint64(31) + units[index])
        second = mix(second ^ (units[index] * FNV_PRIME))
    return first, second


@njit(cache=True, nogil=True)
def band_keys_into(
    shingles: NDArray[np.uint64],
    count: int,
    rows: int,
    seed: int,
    signature: NDArray[np.uint64],
    keys: NDArray[np.uint64],
) -> None:
    """Write one key per band of the one-permutation minhash signature (empty bins densified) into `keys`."""
    bins, bands = len(signature), len(keys)
    signature[:] = EMPTY
    salt = mix(np.uint64(seed + 1))
    size = np.uint64(bins)
    reciprocal = np.uint64((1 << _DIVIDED_BITS) // bins + 1)
    divide = bins >= 1 << 16
    for index in range(count):
        value = mix(shingles[index] ^ salt)
        high = value >> np.uint64(40)
        quotient = high // size if divide else (high * reciprocal) >> np.uint64(_DIVIDED_BITS)
        slot = np.int64(high - quotient * size)
        low = value & np.uint64(0xFFFFFFFFFF)
        if low < signature[slot]:
            signature[slot] = low
    for band in range(bands):
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
        folds[index] = fold_document(data, start, end, units, count)[0]
        size = characters if cjk >= MOSTLY_CJK * max(1, count) else words
        counts[index] = shingles_into(units, count, size, shingles)
        if counts[index] > 0:
            band_keys_into(shingles, counts[index], rows, seed, signature, keys_DB[index])
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
