"""An audit of what deduplication left: an exact join on a sample, which shares no code with its kernels or keys."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.dedup.kernels import MOSTLY_CJK
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.hashing import hash_units, join_points, shingle_hashes
from nanbeige_core.data.latent import sample_parts, spread
from nanbeige_core.data.pool import Part
from nanbeige_core.data.terms import batches_of

AUDIT_DOCUMENTS = 1500

COMPARED_DOCUMENTS = 1000
"""Documents that are compared with the sample at a time."""


class ShingleSets(NamedTuple):
    """The sorted distinct shingles of D texts end to end, and how many each has."""

    values: NDArray[np.uint64]
    sizes: NDArray[np.int64]


def shingle_sets(texts: Sequence[str], settings: DedupSettings) -> ShingleSets:
    """Return the shingles of each text: word runs, or character runs for a script that does not part words."""
    values, sizes = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for batch in batches_of(texts):
        found = _distinct_shingles(*join_points(batch), settings.shingle_words, settings.shingle_characters)
        values.append(found[0])
        sizes.append(found[1])
    return ShingleSets(np.concatenate(values), np.concatenate(sizes))


def measure_twin_share(parts: Sequence[Part], settings: DedupSettings, workers: int = 1) -> tuple[float, int]:
    """Return the share of a sample with a twin at the threshold among all texts, and the size of the sample.

    The parts are read twice, `workers` at a time; only the sample's sets stay in memory.
    """
    documents = sum(part.documents for part in parts)
    sample = spread(documents, AUDIT_DOCUMENTS)
    chosen = sample_parts(parts, len(sample)) if len(sample) else []
    mine = list(map_in_order(lambda part: shingle_sets(part.read(), settings), chosen, workers))
    flat = ShingleSets(
        np.concatenate([np.empty(0, np.uint64), *(item.values for item in mine)]),
        np.concatenate([np.empty(0, np.int64), *(item.sizes for item in mine)]),
    )
    ordered = np.sort(flat.values)
    # np.unique goes through a hash table, which takes many times longer
    values = ordered[np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]])]
    sampled = _incidence(flat, values)

    def find_twins(place: tuple[Part, int]) -> list[int]:
        part, first = place
        twins: list[int] = []
        for texts in batches_of(part.read(), COMPARED_DOCUMENTS):
            sets = shingle_sets(texts, settings)
            shared = sparse.coo_matrix(sampled @ _incidence(sets, values).T)
            sizes, others = flat.sizes[shared.row], sets.sizes[shared.col]
            near = shared.data >= settings.jaccard * (sizes + others - shared.data)
            twins += shared.row[near & (sample[shared.row] != shared.col + first)].tolist()
            first += len(texts)
        return twins

    firsts = np.cumsum([0, *(part.documents for part in parts)]).tolist()
    twins: set[int] = set()
    for found in map_in_order(find_twins, zip(parts, firsts, strict=False), workers):
        twins.update(found)
    return len(twins) / max(1, len(sample)), len(sample)


def _incidence(sets: ShingleSets, values: NDArray[np.uint64]) -> sparse.csr_matrix:
    """Return which set [D] holds which of the sorted `values` [F]; what is none of them is left out."""
    owners = np.repeat(np.arange(len(sets.sizes)), sets.sizes)
    places = np.minimum(np.searchsorted(values, sets.values), max(0, len(values) - 1))
    known = values[places] == sets.values if len(values) else np.zeros(len(sets.values), bool)
    ones = np.ones(int(known.sum()), np.float32)
    return sparse.csr_matrix((ones, (owners[known], places[known])), shape=(len(sets.sizes), max(1, len(values))))


@njit(cache=True, nogil=True)
def _distinct_shingles(
    points: NDArray[np.uint32], offsets: NDArray[np.int64], words: int, characters: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    values = np.empty(len(points), np.uint64)
    sizes = np.zeros(len(offsets) - 1, np.int64)
    written = 0
    for index in range(len(sizes)):
        units, unsegmented = hash_units(points[offsets[index] : offsets[index + 1]], True)
        size = characters if unsegmented >= MOSTLY_CJK * max(1, len(units)) else words
        shingles = shingle_hashes(units, size)
        shingles.sort()
        first = written
        for place in range(len(shingles)):
            if place == 0 or shingles[place] != shingles[place - 1]:
                values[written] = shingles[place]
                written += 1
        sizes[index] = written - first
    return values[:written].copy(), sizes
