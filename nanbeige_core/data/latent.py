"""Latent semantic vectors of a pool: TF-IDF over character trigrams, then a truncated singular value decomposition."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.allocation import return_free_memory
from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.pool import Part
from nanbeige_core.data.terms import (
    DENSE_BUCKETS,
    PREFIX_CHARACTERS,
    batches_of,
    count_terms,
    inverse_frequency,
    shape_of,
    stack_rows,
)

# Shapes: D documents, F features, V vector size.

LATENT_DOCUMENTS = 20_000
"""The latent space of a larger pool is fitted on so many of its documents."""

WEIGHED_ROWS = 500
"""Rows whose weights are computed at a time; bounds the copies."""

FindVectors = Callable[[NDArray[np.int64], Sequence[str]], NDArray[np.float32]]
"""Gives documents, by their numbers in the pool and their texts, unit vectors [D, V]."""


def dense_vectors(counts: sparse.csr_matrix, size: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors [D, V]: TF-IDF, then a truncated singular value decomposition; `counts` become weights."""
    from sklearn.utils.extmath import randomized_svd

    weights = weigh_in_place(counts, inverse_frequency(counts))
    size = _rank(size, weights)
    left, values, _ = randomized_svd(weights, size, n_iter=2, random_state=seed)  # pyright: ignore[reportArgumentType]
    return _unit((left * values).astype(np.float32))


@dataclass(frozen=True)
class LatentEmbedding:
    """The latent space of a pool: term weights and right singular vectors."""

    weights_F: NDArray[np.float32]
    right_VF: NDArray[np.float32]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the unit vectors [D, V] of any texts."""
        right_FV = np.ascontiguousarray(self.right_VF.T)
        vectors = [np.empty((0, right_FV.shape[1]), np.float32)]
        for batch in batches_of(texts):
            terms_DF = weigh_in_place(count_terms(batch, dense=True), self.weights_F)
            vectors.append(_unit(np.asarray(terms_DF @ right_FV, dtype=np.float32)))
        return np.concatenate(vectors)

    def save(self, path: Path) -> None:
        """Write the space as one file."""
        np.savez(path, **vars(self))

    @staticmethod
    def load(path: Path) -> "LatentEmbedding":
        """Read a space that `save` wrote."""
        with np.load(path) as stored:
            return LatentEmbedding(stored["weights_F"], stored["right_VF"])


def latent_embedder(texts: Sequence[str], *, size: int, seed: int) -> LatentEmbedding:
    """Return the latent space of a pool."""
    return _fit(count_terms(texts, dense=True), size, seed)


def find_latent_vectors(parts: Sequence[Part], size: int, seed: int, workers: int = 1) -> FindVectors:
    """Return the vectors of a pool in the latent space of its own openings, or of a sample of them if it is large."""
    documents = sum(part.documents for part in parts)
    if documents <= LATENT_DOCUMENTS:
        vectors_DV = dense_vectors(count_parts(parts, workers), size, seed)
        return lambda numbers, texts: vectors_DV[numbers]
    embed = fit_latent_space(parts, size, seed, workers)
    return lambda numbers, texts: embed(texts)


def fit_latent_space(parts: Sequence[Part], size: int, seed: int, workers: int = 1) -> LatentEmbedding:
    """Return the latent space of a pool, fitted on a sample of its documents if it is large."""
    counts = count_parts(sample_parts(parts, LATENT_DOCUMENTS), workers)
    return_free_memory()
    return _fit(counts, size, seed)


def count_parts(parts: Sequence[Part], workers: int, characters: int = PREFIX_CHARACTERS) -> sparse.csr_matrix:
    """Return the trigram counts [D, F] of a pool."""
    counts = map_in_order(lambda part: count_terms(part.read(), dense=True, characters=characters), parts, workers)
    return stack_rows(counts, DENSE_BUCKETS)


def sample_parts(parts: Sequence[Part], count: int) -> list[Part]:
    """Return the parts with `count` documents of them alone, spread evenly over all."""
    sizes = [part.documents for part in parts]
    chosen = spread(sum(sizes), count)
    firsts = np.cumsum([0, *sizes])
    sampled: list[Part] = []
    for part, first, after in zip(parts, firsts, firsts[1:], strict=False):
        mine = (chosen[(chosen >= first) & (chosen < after)] - first).tolist()
        sampled.append(Part(len(mine), functools.partial(part.pick, mine)))
    return sampled


def spread(documents: int, count: int) -> NDArray[np.int64]:
    """Return the numbers of at most `count` documents, ascending and spread evenly over all."""
    return np.unique(np.linspace(0, documents - 1, min(count, documents)).astype(np.int64))


def weigh_in_place(counts: sparse.csr_matrix, weights_F: NDArray[np.float32]) -> sparse.csr_matrix:
    """Return unit rows of log counts times term weights; they take the memory of the counts, which are lost."""
    for first in range(0, shape_of(counts)[0], WEIGHED_ROWS):
        start, end = counts.indptr[first], counts.indptr[first : first + WEIGHED_ROWS + 1][-1]
        rows = _weigh_rows(counts[first : first + WEIGHED_ROWS], weights_F)
        counts.data[start:end], counts.indices[start:end] = rows.data, rows.indices
    return sparse.csr_matrix((counts.data, counts.indices, counts.indptr), shape=shape_of(counts))


def _fit(counts: sparse.csr_matrix, size: int, seed: int) -> LatentEmbedding:
    from sklearn.utils.extmath import randomized_svd

    weights_F = inverse_frequency(counts)
    pool = weigh_in_place(counts, weights_F)
    size = _rank(size, pool)
    _, _, right_VF = randomized_svd(pool, size, n_iter=2, random_state=seed)  # pyright: ignore[reportArgumentType]
    return LatentEmbedding(weights_F, right_VF)


def _rank(size: int, weights: sparse.csr_matrix) -> int:
    """Return how many dimensions a pool can have: one less than documents and terms, and one for a single document."""
    return max(1, min(size, min(shape_of(weights)) - 1))


def _weigh_rows(counts: sparse.csr_matrix, weights_F: NDArray[np.float32]) -> sparse.csr_matrix:
    weights = counts.copy()
    weights.data = np.log1p(weights.data) * weights_F[counts.indices]
    norms = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags((1 / np.maximum(norms, 1e-9)).astype(np.float32)) @ weights)


def _unit(vectors_DV: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors_DV / np.maximum(np.linalg.norm(vectors_DV, axis=1, keepdims=True), 1e-9)
