"""Hashed terms of texts and what BM25 makes of them; the counts are those of a batch kernel that releases the lock."""

import string
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.hashing import hash_units, join_points, mix

# Shapes: Q queries, D documents, F features.

BM25_K1 = 1.2
BM25_B = 0.75
LEXICAL_BUCKETS = 1 << 17
DENSE_BUCKETS = 1 << 14
PREFIX_CHARACTERS = 1000
"""What the retrievers read of a document, unless told otherwise."""

QUERY_TERMS = 48
"""Most distinctive terms of a seed that query BM25."""

SPELLED_BYTES = 4
"""Of a spelled term and the space behind it: 62 * 62 * 62 spellings are more than there are buckets."""

WORDS, CHARACTERS, TRIGRAMS = 0, 1, 2
"""What the kernel counts; with CHARACTERS a script that spells out words without parting them has no runs."""

BATCH_DOCUMENTS = 256
"""Documents that the kernel is given at a time; bounds what it holds before equal terms are added up."""


COUNTED_TERMS = 1 << 20
"""Terms whose documents are counted at a time."""


class TermStatistics(NamedTuple):
    """What BM25 needs to know of a whole pool: the rarity of each term [F], and the mean length of a document."""

    inverse_F: NDArray[np.float32]
    mean_length: float


def count_terms(
    texts: Iterable[str], *, dense: bool, characters: int = PREFIX_CHARACTERS, spelled: bool = False
) -> sparse.csr_matrix:
    """Return hashed term counts [D, F]: words and pairs of them, or character trigrams for the dense retriever.

    With `spelled` each character of kana, Thai and the like is a word, as a Chinese one always is.
    """
    kind = TRIGRAMS if dense else CHARACTERS if spelled else WORDS
    return _count(texts, DENSE_BUCKETS if dense else LEXICAL_BUCKETS, characters, kind)


def count_words(texts: Iterable[str], buckets: int, characters: int) -> sparse.csr_matrix:
    """Return counts [D, buckets] of the words of each text's opening, and of neighbouring ones."""
    return _count(texts, buckets, characters, WORDS)


def inverse_frequency(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the BM25 inverse document frequency of each feature."""
    pool, features = shape_of(counts)
    return rarity(count_documents(counts.indices, features), pool)


def count_documents(indices: NDArray[Any], features: int) -> NDArray[np.int64]:
    """Return how many documents have each feature, from the distinct features of all of them end to end."""
    frequencies_F = np.zeros(features, np.int64)
    # a block at a time: counting widens what it is given
    for start in range(0, len(indices), COUNTED_TERMS):
        frequencies_F += np.bincount(indices[start : start + COUNTED_TERMS], minlength=features)
    return frequencies_F


def rarity(frequencies_F: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    """Return the BM25 inverse document frequency of features that so many of the documents have."""
    return np.log1p((documents - frequencies_F + 0.5) / (frequencies_F + 0.5)).astype(np.float32)


def bm25_weights(counts: sparse.csr_matrix, pool: TermStatistics | None = None) -> sparse.csr_matrix:
    """Return the BM25 weight of each term in each document [D, F]; `pool` is of a larger pool that holds these."""
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    pool = pool or TermStatistics(inverse_frequency(counts), lengths.mean())
    norm = BM25_K1 * (1 - BM25_B + BM25_B * lengths / max(1e-9, pool.mean_length))
    weights = counts.copy()
    rows = np.repeat(np.arange(len(lengths)), np.diff(counts.indptr))
    weights.data = counts.data * (BM25_K1 + 1) / (counts.data + norm[rows])
    weights.data *= pool.inverse_F[counts.indices]
    return weights


def bm25_between(queries: list[str], texts: list[str]) -> NDArray[np.float32]:
    """Return BM25 scores [Q, D] of texts for other texts as queries."""
    pool, asked = (count_terms(side, dense=False, spelled=True) for side in (texts, queries))
    rare = asked.copy()
    rare.data = inverse_frequency(pool)[asked.indices]
    return score_terms(choose_terms(rare), bm25_weights(pool))


def score_terms(chosen: sparse.csr_matrix, weights: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the summed weights [Q, D] of the chosen terms of each query."""
    return np.asarray((chosen @ weights.T).toarray(), dtype=np.float32)


def choose_terms(queries: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a one [Q, F] for each of the terms that weigh most in a query."""
    number, size = shape_of(queries)
    kept = [
        (row, term) for row in range(number) for term in _top_terms(queries.indices, queries.data, queries.indptr, row)
    ]
    rows, columns = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(len(kept), np.float32), (rows, columns)), shape=(number, size))


def shape_of(matrix: sparse.csr_matrix) -> tuple[int, int]:
    """Return the shape; SciPy's annotation allows None, which a finished matrix never has."""
    return cast(tuple[int, int], matrix.shape)


def spell_terms(terms: NDArray[np.int64]) -> str:
    """Return terms as words of three letters or digits, for an index that splits at spaces."""
    return _spellings()[terms].tobytes().decode("ascii").rstrip()


def spell_documents(counts: sparse.csr_matrix) -> pa.Array:
    """Return the terms of each document as `spell_terms` spells them, each as often as the document has it."""
    times = counts.data.astype(np.int64)
    spelled = _spellings()[np.repeat(counts.indices, times)].tobytes()
    ends = np.concatenate([[0], np.cumsum(times)])[counts.indptr] * SPELLED_BYTES
    buffers = [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(spelled)]
    return pa.Array.from_buffers(pa.large_string(), len(ends) - 1, buffers).cast(pa.string())


@cache
def _spellings() -> NDArray[np.uint8]:
    """Return three letters or digits and a space for each bucket [F, 4]; case counts."""
    letters = np.frombuffer((string.ascii_letters + string.digits).encode(), np.uint8)
    buckets, base = np.arange(LEXICAL_BUCKETS), len(letters)
    places = [letters[buckets // base**2], letters[buckets // base % base], letters[buckets % base]]
    return np.stack([*places, np.full(len(buckets), ord(" "), np.uint8)], axis=1)


def stack_rows(blocks: Iterable[sparse.csr_matrix], columns: int) -> sparse.csr_matrix:
    """Return the rows of some matrices as one, taking in each as it comes: blocks and result are not held together."""
    data, indices = np.empty(0, np.float32), np.empty(0, np.int32)
    sizes: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    for block in blocks:
        first = len(data)
        # in place: what is large enough grows without being copied
        data.resize(first + block.nnz, refcheck=False)
        indices.resize(first + block.nnz, refcheck=False)
        data[first:], indices[first:] = block.data, block.indices
        sizes.append(np.diff(block.indptr))
    pointers = np.cumsum(np.concatenate(sizes), dtype=np.int64)
    return sparse.csr_matrix((data, indices, pointers), shape=(len(pointers) - 1, columns))


def _count(texts: Iterable[str], buckets: int, characters: int, kind: int) -> sparse.csr_matrix:
    return stack_rows((_count_batch(batch, buckets, characters, kind) for batch in batches_of(texts)), buckets)


def _count_batch(texts: list[str], buckets: int, characters: int, kind: int) -> sparse.csr_matrix:
    points, offsets = join_points([text[:characters] for text in texts])
    terms, times, found = count_batch(points, offsets, buckets, kind)
    pointers = np.concatenate([[0], np.cumsum(found)])
    return sparse.csr_matrix((times, terms, pointers), shape=(len(texts), buckets))


def batches_of(texts: Iterable[str], documents: int = BATCH_DOCUMENTS) -> Iterator[list[str]]:
    """Yield texts a few at a time: what a kernel holds of each, code points above all, is several times the text."""
    source = iter(texts)
    while batch := list(islice(source, documents)):
        yield batch


def _top_terms(indices: NDArray[Any], data: NDArray[Any], pointers: NDArray[Any], row: int) -> NDArray[np.int32]:
    start, end = pointers[row], pointers[row + 1]
    best = np.argsort(-data[start:end], kind="stable")[:QUERY_TERMS]
    return indices[start:end][best]


@njit(cache=True, nogil=True)
def count_batch(
    points: NDArray[np.uint32], offsets: NDArray[np.int64], buckets: int, kind: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Return the distinct terms of each text end to end, ascending, their counts, and how many each text has [D]."""
    indices = np.empty(2 * len(points), dtype=np.int32)
    counts = np.empty(2 * len(points), dtype=np.float32)
    sizes = np.zeros(len(offsets) - 1, dtype=np.int64)
    written = 0
    for index in range(len(sizes)):
        text = points[offsets[index] : offsets[index + 1]]
        terms = (
            _trigrams(text, buckets) if kind == TRIGRAMS else _words(hash_units(text, kind == CHARACTERS)[0], buckets)
        )
        terms.sort()
        first = written
        for place in range(len(terms)):
            if place > 0 and terms[place] == terms[place - 1]:
                counts[written - 1] += np.float32(1)
            else:
                indices[written] = terms[place]
                counts[written] = np.float32(1)
                written += 1
        sizes[index] = written - first
    return indices[:written].copy(), counts[:written].copy(), sizes


@njit(cache=True, nogil=True)
def _words(units: NDArray[np.uint64], buckets: int) -> NDArray[np.int32]:
    """Return the bucket of every unit and of every two neighbours."""
    terms = np.empty(2 * len(units), dtype=np.int32)
    count = 0
    for index in range(len(units)):
        terms[count] = np.int32(mix(units[index]) % np.uint64(buckets))
        count += 1
        if index + 1 < len(units):
            terms[count] = np.int32(mix(units[index] * np.uint64(3) + units[index + 1]) % np.uint64(buckets))
            count += 1
    return terms[:count].copy()


@njit(cache=True, nogil=True)
def _trigrams(points: NDArray[np.uint32], buckets: int) -> NDArray[np.int32]:
    terms = np.empty(max(0, len(points) - 2), dtype=np.int32)
    for index in range(len(points) - 2):
        value = mix(np.uint64(points[index]) * np.uint64(1000003) + np.uint64(points[index + 1]))
        terms[index] = np.int32(mix(value + np.uint64(points[index + 2])) % np.uint64(buckets))
    return terms
