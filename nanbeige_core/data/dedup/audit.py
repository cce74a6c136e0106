"""An audit of what deduplication left: an exact join on a sample, which shares no code with the kernels or the keys."""

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.dedup.kernels import MOSTLY_CJK
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.hashing import shingle_hashes, unit_hashes

AUDIT_DOCUMENTS = 1500
BATCH_DOCUMENTS = 2000


def shingle_set(text: str, settings: DedupSettings) -> NDArray[np.uint64]:
    """Return the sorted distinct shingles of a text: word runs, or character runs for mostly Chinese text."""
    units, cjk = unit_hashes(text)
    size = settings.shingle_characters if cjk >= MOSTLY_CJK else settings.shingle_words
    ordered = np.sort(shingle_hashes(units, size))
    # np.unique goes through a hash table, which takes many times longer on so few values
    return ordered[np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]])]


def measure_twin_share(read: Callable[[], Iterator[str]], documents: int, settings: DedupSettings) -> tuple[float, int]:
    """Return the share of a sample with a twin at the threshold among all texts, and the size of the sample.

    `read` goes through the texts, the same ones each time; only the sample's sets stay in memory.
    """
    sample = np.linspace(0, documents - 1, min(AUDIT_DOCUMENTS, documents)).astype(int)
    chosen = set(sample.tolist())
    mine = [shingle_set(text, settings) for number, text in enumerate(read()) if number in chosen]
    sizes = np.array([len(item) for item in mine], np.int64)
    values = np.unique(np.concatenate([np.empty(0, np.uint64), *mine]))
    sampled = _incidence(mine, values)
    twins: set[int] = set()
    texts, first = read(), 0
    while batch := [shingle_set(text, settings) for text in islice(texts, BATCH_DOCUMENTS)]:
        shared = sparse.coo_matrix(sampled @ _incidence(batch, values).T)
        others = np.array([len(item) for item in batch], np.int64)[shared.col]
        near = shared.data >= settings.jaccard * (sizes[shared.row] + others - shared.data)
        twins.update(shared.row[near & (sample[shared.row] != shared.col + first)].tolist())
        first += len(batch)
    return len(twins) / max(1, len(sample)), len(sample)


def _incidence(sets: list[NDArray[np.uint64]], values: NDArray[np.uint64]) -> sparse.csr_matrix:
    """Return which set [D] holds which of the sorted `values` [F]; what is none of them is left out."""
    flat = np.concatenate([np.empty(0, np.uint64), *sets])
    owners = np.repeat(np.arange(len(sets)), [len(item) for item in sets])
    places = np.minimum(np.searchsorted(values, flat), max(0, len(values) - 1))
    known = values[places] == flat if len(values) else np.zeros(len(flat), bool)
    ones = np.ones(int(known.sum()), np.float32)
    return sparse.csr_matrix((ones, (owners[known], places[known])), shape=(len(sets), max(1, len(values))))
