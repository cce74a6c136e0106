"""Hybrid retrieval: BM25 and latent semantic vectors, fused by reciprocal rank, from curated seeds.

Both retrievers scan the whole pool for all seeds at once: a batched exact scan is cheaper than an index below a few
hundred thousand documents, and it forgets nothing. The scan goes from part to part, so that memory holds the terms of
one part for each thread and the best documents of each seed, whatever the size of the pool.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.latent import FindVectors
from nanbeige_core.data.pool import Part
from nanbeige_core.data.terms import (
    LEXICAL_BUCKETS,
    TermStatistics,
    batches_of,
    bm25_weights,
    choose_terms,
    count_terms,
    rarity,
    score_terms,
)

# Shapes: Q queries, D documents, F features, V vector size.


SCORED_DOCUMENTS = 1000
"""Documents whose terms are weighed at a time, of a part that each thread holds."""


class Ranking(NamedTuple):
    """The best documents of each query so far [Q, depth], best first, and their scores; a score of 0 is none."""

    documents: NDArray[np.int64]
    scores: NDArray[np.float32]

    @staticmethod
    def empty(queries: int, depth: int) -> "Ranking":
        """Return a ranking of nothing."""
        return Ranking(np.full((queries, depth), -1, np.int64), np.zeros((queries, depth), np.float32))

    def add(
        self,
        scores_QD: NDArray[np.float32],
        documents_D: NDArray[np.int64],
        queries: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in more documents, whose numbers are above all that were seen; a seed never retrieves itself."""
        allowed_D = np.ones(len(documents_D), np.bool_) if allowed is None else allowed[documents_D]
        _insert_best(np.ascontiguousarray(scores_QD), documents_D, queries, allowed_D, self.scores, self.documents)


class _Survey(NamedTuple):
    """What the first reading leaves of a part: its term statistics, and its seeds."""

    frequencies_F: NDArray[np.int64]
    lengths_D: NDArray[np.float32]
    seeds: sparse.csr_matrix
    seed_vectors: NDArray[np.float32] | None


def fuse(rankings: Sequence[Ranking], documents: int, k: float) -> NDArray[np.float64]:
    """Return the summed reciprocal-rank score of each document [D]: each ranking gives 1 / (k + rank)."""
    fused_D = np.zeros(documents)
    for ranking in rankings:
        for best, scores in zip(ranking.documents, ranking.scores, strict=True):
            found = best[scores > 0]
            fused_D[found] += 1.0 / (k + 1 + np.arange(len(found)))
    return fused_D


def retrieve_from_seeds(
    parts: Sequence[Part],
    queries: NDArray[np.int64],
    *,
    depth: int,
    k: float,
    vectors: FindVectors,
    allowed: NDArray[np.bool_] | None = None,
    workers: int = 1,
) -> NDArray[np.float64]:
    """Return how strongly each document [D] is recalled by the seeds with both retrievers.

    `queries` are the numbers of the seeds in the pool, ascending. The pool is read twice, `workers` parts at a time;
    the result does not depend on how many.
    """
    firsts = np.cumsum([0, *(part.documents for part in parts)])
    spans = [(np.arange(a, b), part) for part, a, b in zip(parts, firsts, firsts[1:], strict=False) if b > a]
    frequencies_F = np.zeros(LEXICAL_BUCKETS, np.int64)
    surveys: list[_Survey] = []
    for survey in map_in_order(lambda span: _survey(*span, queries, vectors), spans, workers):
        frequencies_F += survey.frequencies_F
        surveys.append(survey._replace(frequencies_F=np.empty(0, np.int64)))
    documents = int(firsts[-1])
    lengths_D = np.concatenate([survey.lengths_D for survey in surveys])
    pool = TermStatistics(rarity(frequencies_F, documents), lengths_D.mean())
    seeds = sparse.csr_matrix(sparse.vstack([survey.seeds for survey in surveys]))
    terms = choose_terms(bm25_weights(seeds, pool))
    asked_QV = np.concatenate([survey.seed_vectors for survey in surveys if survey.seed_vectors is not None])

    def score(span: tuple[NDArray[np.int64], Part]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        numbers, texts = span[0], span[1].read()
        lexical = [
            score_terms(terms, bm25_weights(count_terms(batch, dense=False), pool))
            for batch in batches_of(texts, SCORED_DOCUMENTS)
        ]
        return np.concatenate(lexical, axis=1), asked_QV @ vectors(numbers, texts).T

    rankings = [Ranking.empty(len(queries), depth) for _ in range(2)]
    for (numbers, _), scores in zip(spans, map_in_order(score, spans, workers), strict=True):
        for ranking, scores_QD in zip(rankings, scores, strict=True):
            ranking.add(scores_QD, numbers, queries, allowed)
    return fuse(rankings, documents, k)


def _survey(numbers: NDArray[np.int64], part: Part, queries: NDArray[np.int64], vectors: FindVectors) -> _Survey:
    texts = part.read()
    counts = count_terms(texts, dense=False)
    mine = queries[np.isin(queries, numbers)] - numbers[0]
    return _Survey(
        np.bincount(counts.indices, minlength=LEXICAL_BUCKETS),
        np.asarray(counts.sum(axis=1)).ravel(),
        counts[mine],
        vectors(numbers[mine], [texts[number] for number in mine.tolist()]) if len(mine) else None,
    )


@njit(cache=True, nogil=True)
def _insert_best(
    scores_QD: NDArray[np.float32],
    documents_D: NDArray[np.int64],
    queries: NDArray[np.int64],
    allowed_D: NDArray[np.bool_],
    best_scores: NDArray[np.float32],
    best_documents: NDArray[np.int64],
) -> None:
    """Keep the best documents of each query sorted; of equal scores the document that came first stays before."""
    depth = best_scores.shape[1]
    for query in range(len(queries)):
        for index in range(len(documents_D)):
            score = scores_QD[query, index]
            document = documents_D[index]
            if score <= best_scores[query, depth - 1] or not allowed_D[index] or document == queries[query]:
                continue
            place = depth - 1
            while place > 0 and best_scores[query, place - 1] < score:
                best_scores[query, place] = best_scores[query, place - 1]
                best_documents[query, place] = best_documents[query, place - 1]
                place -= 1
            best_scores[query, place] = score
            best_documents[query, place] = document
