"""Hybrid retrieval: BM25 and latent semantic vectors, fused by reciprocal rank, from curated seeds.

Both retrievers scan the whole pool for all seeds at once: a batched exact scan is cheaper than an index below a few
hundred thousand documents, and it forgets nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.hashing import code_points, hash_units, mix

# Shapes: Q queries, D documents, F features, V vector size.

BM25_K1 = 1.2
BM25_B = 0.75
LEXICAL_BUCKETS = 1 << 17
DENSE_BUCKETS = 1 << 14
PREFIX_CHARACTERS = 1000
"""What the retrievers read of a document, unless told otherwise."""

QUERY_TERMS = 48
"""Most distinctive terms of a seed that query BM25."""


def count_terms(texts: list[str], *, dense: bool, characters: int = PREFIX_CHARACTERS) -> sparse.csr_matrix:
    """Return hashed term counts [D, F]: words and CJK bigrams, or character trigrams for the dense retriever."""
    buckets = DENSE_BUCKETS if dense else LEXICAL_BUCKETS
    parts: list[NDArray[np.int32]] = []
    pointers = [0]
    for text in texts:
        points = code_points(text[:characters].lower())
        terms = _trigrams(points, buckets) if dense else hash_words(hash_units(points)[0], buckets)
        parts.append(terms)
        pointers.append(pointers[-1] + len(terms))
    indices = np.concatenate(parts) if parts else np.empty(0, np.int32)
    counts = sparse.csr_matrix(
        (np.ones(len(indices), np.float32), indices, np.array(pointers)), shape=(len(texts), buckets)
    )
    counts.sum_duplicates()
    return counts


def inverse_frequency(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the BM25 inverse document frequency of each feature."""
    pool, features = _shape(counts)
    documents = np.bincount(counts.indices, minlength=features)
    return np.log1p((pool - documents + 0.5) / (documents + 0.5)).astype(np.float32)


def bm25_weights(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the BM25 weight of each term in each document [D, F]."""
    lengths = np.asarray(counts.sum(axis=1)).ravel()
    norm = BM25_K1 * (1 - BM25_B + BM25_B * lengths / max(1e-9, lengths.mean()))
    weights = counts.copy()
    rows = np.repeat(np.arange(len(lengths)), np.diff(counts.indptr))
    weights.data = counts.data * (BM25_K1 + 1) / (counts.data + norm[rows])
    weights.data *= inverse_frequency(counts)[counts.indices]
    return weights


def bm25_scores(counts: sparse.csr_matrix, queries: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return BM25 scores [Q, D] of the documents `queries` as seeds against the pool."""
    weights = bm25_weights(counts)
    return score_terms(weights[queries], weights)


def bm25_between(queries: list[str], texts: list[str]) -> NDArray[np.float32]:
    """Return BM25 scores [Q, D] of texts for other texts as queries."""
    pool, asked = count_terms(texts, dense=False), count_terms(queries, dense=False)
    rare = asked.copy()
    rare.data = inverse_frequency(pool)[asked.indices]
    return score_terms(rare, bm25_weights(pool))


def score_terms(queries: sparse.csr_matrix, weights: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the summed weights [Q, D] of the terms that weigh most in each query."""
    number, size = _shape(queries)
    kept = [
        (row, term) for row in range(number) for term in _top_terms(queries.indices, queries.data, queries.indptr, row)
    ]
    rows, columns = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    chosen = sparse.csr_matrix((np.ones(len(kept), np.float32), (rows, columns)), shape=(number, size))
    return np.asarray((chosen @ weights.T).toarray(), dtype=np.float32)


def dense_vectors(counts: sparse.csr_matrix, size: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors [D, V]: TF-IDF, then a truncated singular value decomposition."""
    from sklearn.utils.extmath import randomized_svd

    weights = _weigh(counts, inverse_frequency(counts))
    size = min(size, min(_shape(weights)) - 1)
    left, values, _ = randomized_svd(weights, size, n_iter=2, random_state=seed)  # pyright: ignore[reportArgumentType]
    vectors_DV = (left * values).astype(np.float32)
    return vectors_DV / np.maximum(np.linalg.norm(vectors_DV, axis=1, keepdims=True), 1e-9)


def fuse_ranks(
    scores: list[NDArray[np.float32]],
    queries: NDArray[np.int64],
    depth: int,
    k: float,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return the summed reciprocal-rank score of each document [D] over seeds and retrievers.

    Each ranking gives 1 / (k + rank) to its first `depth` documents that are `allowed`; a seed never retrieves itself.
    """
    fused_D = np.zeros(scores[0].shape[1])
    for scores_QD in scores:
        for number, query in enumerate(queries):
            row = scores_QD[number].astype(np.float64)
            row[query] = -np.inf
            if allowed is not None:
                row[~allowed] = -np.inf
            # a stable sort makes equal scores fall in document order, so the result does not vary
            best = np.argsort(-row, kind="stable")[:depth]
            best = best[row[best] > 0]
            fused_D[best] += 1.0 / (k + 1 + np.arange(len(best)))
    return fused_D


def retrieve_from_seeds(
    texts: list[str],
    queries: NDArray[np.int64],
    *,
    depth: int,
    k: float,
    vectors_DV: NDArray[np.float32],
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return how strongly each document [D] is recalled by the seeds (rows of `texts`) with both retrievers."""
    lexical = bm25_scores(count_terms(texts, dense=False), queries)
    return fuse_ranks([lexical, vectors_DV[queries] @ vectors_DV.T], queries, depth, k, allowed)


def latent_vectors(texts: list[str], size: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors [D, V] of the openings of texts, from these texts alone."""
    return dense_vectors(count_terms(texts, dense=True), size, seed)


def latent_embedder(texts: Sequence[str], *, size: int, seed: int) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Return a function that gives any texts their unit vectors in the latent space of a pool."""
    from sklearn.utils.extmath import randomized_svd

    counts = count_terms(list(texts), dense=True)
    weights_F = inverse_frequency(counts)
    pool = _weigh(counts, weights_F)
    size = min(size, min(_shape(pool)) - 1)
    _, _, right_VF = randomized_svd(pool, size, n_iter=2, random_state=seed)  # pyright: ignore[reportArgumentType]

    def embed(others: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.asarray(_weigh(count_terms(list(others), dense=True), weights_F) @ right_VF.T, dtype=np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    return embed


def _weigh(counts: sparse.csr_matrix, weights_F: NDArray[np.float32]) -> sparse.csr_matrix:
    weights = counts.copy()
    weights.data = np.log1p(weights.data) * weights_F[counts.indices]
    norms = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags((1 / np.maximum(norms, 1e-9)).astype(np.float32)) @ weights)


def _shape(matrix: sparse.csr_matrix) -> tuple[int, int]:
    """Return the shape; SciPy's annotation allows None, which a finished matrix never has."""
    return cast(tuple[int, int], matrix.shape)


def _top_terms(indices: NDArray[Any], data: NDArray[Any], pointers: NDArray[Any], row: int) -> NDArray[np.int32]:
    start, end = pointers[row], pointers[row + 1]
    best = np.argsort(-data[start:end], kind="stable")[:QUERY_TERMS]
    return indices[start:end][best]


@njit(cache=True)
def hash_words(units: NDArray[np.uint64], buckets: int) -> NDArray[np.int32]:
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


@njit(cache=True)
def _trigrams(points: NDArray[np.uint32], buckets: int) -> NDArray[np.int32]:
    terms = np.empty(max(0, len(points) - 2), dtype=np.int32)
    for index in range(len(points) - 2):
        value = mix(np.uint64(points[index]) * np.uint64(1000003) + np.uint64(points[index + 1]))
        terms[index] = np.int32(mix(value + np.uint64(points[index + 2])) % np.uint64(buckets))
    return terms
