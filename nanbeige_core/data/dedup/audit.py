"""An audit of what deduplication left: an exact join on a sample, which shares no code with the kernels or the keys."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.dedup.kernels import MOSTLY_CJK
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.hashing import shingle_hashes, unit_hashes

AUDIT_DOCUMENTS = 1500


def shingle_set(text: str, settings: DedupSettings) -> NDArray[np.uint64]:
    """Return the sorted distinct shingles of a text: word runs, or character runs for mostly Chinese text."""
    units, cjk = unit_hashes(text)
    size = settings.shingle_characters if cjk >= MOSTLY_CJK else settings.shingle_words
    return np.unique(shingle_hashes(units, size))


def measure_twin_share(texts: Sequence[str], settings: DedupSettings) -> tuple[float, int]:
    """Return the share of a sample with a twin at the threshold among all texts, and the size of the sample."""
    sets = [shingle_set(text, settings) for text in texts]
    sizes = np.array([len(item) for item in sets])
    values, columns = np.unique(np.concatenate(sets), return_inverse=True)
    matrix = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), columns, np.concatenate([[0], np.cumsum(sizes)])),
        shape=(len(texts), len(values)),
    )
    sample = np.linspace(0, len(texts) - 1, min(AUDIT_DOCUMENTS, len(texts))).astype(int)
    shared = sparse.coo_matrix(matrix[sample] @ matrix.T)
    first = sample[shared.row]
    union = sizes[first] + sizes[shared.col] - shared.data
    twins = (first != shared.col) & (shared.data >= settings.jaccard * union)
    return len(np.unique(shared.row[twins])) / max(1, len(sample)), len(sample)
