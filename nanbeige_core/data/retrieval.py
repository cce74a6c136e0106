"""Hybrid retrieval: BM25 and latent semantic vectors, fused by reciprocal rank, from curated seeds.

Both retrievers scan the whole pool for all seeds at once: a batched exact scan is cheaper than an index below a few
hundred thousand documents, and it forgets nothing. The scan goes from batch to batch, so that memory holds the terms of
one batch and the best documents of each seed, whatever the size of the pool.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, cast

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

SCAN_DOCUMENTS = 20_000
"""Documents whose terms are held at once; the latent space of a larger pool is fitted on so many of it."""

ReadTexts = Callable[[], Iterator[str]]
"""Goes through the texts of a pool, the same ones in the same order each time."""

FindVectors = Callable[[NDArray[np.int64], Sequence[str]], NDArray[np.float32]]
"""Gives documents, by their numbers in the pool and their texts, unit vectors [D, V]."""


class TermStatistics(NamedTuple):
    """What BM25 needs to know of a whole pool: the rarity of each term [F], and the mean length of a document."""

    inverse_F: NDArray[np.float32]
    mean_length: float


def count_terms(texts: Iterable[str], *, dense: bool, characters: int = PREFIX_CHARACTERS) -> sparse.csr_matrix:
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
        (np.ones(len(indices), np.float32), indices, np.array(pointers)), shape=(len(parts), buckets)
    )
    counts.sum_duplicates()
    return counts


def inverse_frequency(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the BM25 inverse document frequency of each feature."""
    pool, features = _shape(counts)
    return _inverse(np.bincount(counts.indices, minlength=features), pool)


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
    pool, asked = count_terms(texts, dense=False), count_terms(queries, dense=False)
    rare = asked.copy()
    rare.data = inverse_frequency(pool)[asked.indices]
    return score_terms(rare, bm25_weights(pool))


def score_terms(queries: sparse.csr_matrix, weights: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the summed weights [Q, D] of the terms that weigh most in each query."""
    return np.asarray((choose_terms(queries) @ weights.T).toarray(), dtype=np.float32)


def choose_terms(queries: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a one [Q, F] for each of the terms that weigh most in a query."""
    number, size = _shape(queries)
    kept = [
        (row, term) for row in range(number) for term in _top_terms(queries.indices, queries.data, queries.indptr, row)
    ]
    rows, columns = np.array(kept, dtype=np.int64).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(len(kept), np.float32), (rows, columns)), shape=(number, size))


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
    everything = np.arange(scores[0].shape[1])
    empty = Ranking.empty(len(queries))
    rankings = [empty.add(scores_QD, everything, queries, depth, allowed) for scores_QD in scores]
    return _fuse(rankings, len(everything), k)


class Ranking(NamedTuple):
    """The best documents of each query so far [Q, depth], best first, and their scores; a score of 0 is none."""

    documents: NDArray[np.int64]
    scores: NDArray[np.float32]

    @staticmethod
    def empty(queries: int) -> "Ranking":
        """Return a ranking of nothing."""
        return Ranking(np.empty((queries, 0), np.int64), np.empty((queries, 0), np.float32))

    def add(
        self,
        scores_QD: NDArray[np.float32],
        documents_D: NDArray[np.int64],
        queries: NDArray[np.int64],
        depth: int,
        allowed: NDArray[np.bool_] | None,
    ) -> "Ranking":
        """Return the ranking with some more documents, whose numbers are above all that it has seen."""
        scores_QD = np.maximum(scores_QD, 0)
        if allowed is not None:
            scores_QD[:, ~allowed[documents_D]] = 0
        scores_QD[queries[:, None] == documents_D] = 0
        scores = np.concatenate([self.scores, scores_QD], axis=1)
        documents = np.concatenate([self.documents, np.broadcast_to(documents_D, scores_QD.shape)], axis=1)
        # a stable sort makes equal scores fall in document order, so the result does not vary
        best = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return Ranking(np.take_along_axis(documents, best, 1), np.take_along_axis(scores, best, 1))


def _fuse(rankings: list[Ranking], documents: int, k: float) -> NDArray[np.float64]:
    fused_D = np.zeros(documents)
    for ranking in rankings:
        for best, scores in zip(ranking.documents, ranking.scores, strict=True):
            found = best[scores > 0]
            fused_D[found] += 1.0 / (k + 1 + np.arange(len(found)))
    return fused_D


def retrieve_from_seeds(
    read: ReadTexts,
    queries: NDArray[np.int64],
    *,
    depth: int,
    k: float,
    vectors: FindVectors,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return how strongly each document [D] is recalled by the seeds with both retrievers.

    `queries` are the numbers of the seeds in the pool, ascending. The pool is read twice, batch by batch.
    """
    counts = sparse.csr_matrix((0, LEXICAL_BUCKETS))
    frequencies_F = np.zeros(LEXICAL_BUCKETS, np.int64)
    lengths: list[NDArray[np.float32]] = []
    seeds: list[sparse.csr_matrix] = []
    seed_vectors: list[NDArray[np.float32]] = []
    for numbers, texts in _scan(read):
        counts = count_terms(texts, dense=False)
        frequencies_F += np.bincount(counts.indices, minlength=LEXICAL_BUCKETS)
        lengths.append(np.asarray(counts.sum(axis=1)).ravel())
        mine = queries[np.isin(queries, numbers)] - numbers[0]
        seeds.append(counts[mine])
        seed_vectors.append(vectors(numbers[mine], [texts[number] for number in mine.tolist()]))
    documents = sum(map(len, lengths))
    pool = TermStatistics(_inverse(frequencies_F, documents), np.concatenate(lengths).mean())
    terms = choose_terms(bm25_weights(sparse.csr_matrix(sparse.vstack(seeds)), pool))
    asked_QV = np.concatenate(seed_vectors)
    lexical = dense = Ranking.empty(len(queries))
    for numbers, texts in _scan(read):
        counts = counts if len(numbers) == documents else count_terms(texts, dense=False)
        scores_QD = np.asarray((terms @ bm25_weights(counts, pool).T).toarray(), np.float32)
        lexical = lexical.add(scores_QD, numbers, queries, depth, allowed)
        dense = dense.add(asked_QV @ vectors(numbers, texts).T, numbers, queries, depth, allowed)
    return _fuse([lexical, dense], documents, k)


def find_latent_vectors(read: ReadTexts, documents: int, size: int, seed: int) -> FindVectors:
    """Return the vectors of a pool in the latent space of its own openings, or of a sample of them if it is large."""
    if documents <= SCAN_DOCUMENTS:
        vectors_DV = latent_vectors(list(read()), size, seed)
        return lambda numbers, texts: vectors_DV[numbers]
    sample = set(np.linspace(0, documents - 1, SCAN_DOCUMENTS).astype(int).tolist())
    embed = latent_embedder([text for number, text in enumerate(read()) if number in sample], size=size, seed=seed)
    return lambda numbers, texts: embed(texts)


def _scan(read: ReadTexts) -> Iterator[tuple[NDArray[np.int64], list[str]]]:
    texts, first = read(), 0
    while batch := list(islice(texts, SCAN_DOCUMENTS)):
        yield np.arange(first, first + len(batch)), batch
        first += len(batch)


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


def _inverse(frequencies_F: NDArray[np.int64], documents: int) -> NDArray[np.float32]:
    return np.log1p((documents - frequencies_F + 0.5) / (frequencies_F + 0.5)).astype(np.float32)


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
