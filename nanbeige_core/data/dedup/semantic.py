"""Semantic deduplication: of documents that say the same in other words, the best stays (after SemDeDup, 2303.09540).

SemDeDup clusters and then drops within a cluster whatever resembles anything. Here documents are taken best first, and
one goes only when the cosine to a document that is *kept* reaches the threshold. A matrix product in float32 proposes,
the same two vectors in float64 decide. A translation says the same too but is no duplicate: groups are apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Shapes: D documents, V vector size, K clusters, B block.

BLOCK = 1024
MARGIN = 1e-4
"""More than float32 products can be off, for unit vectors."""

ITERATIONS = 10
CLUSTER_SAMPLE = 64
"""Documents a cluster that the centres are fitted on."""


class SemanticDuplicate(NamedTuple):
    """Document `removed` goes for document `kept`, at this cosine."""

    removed: int
    kept: int
    cosine: float


def find_semantic_duplicates(
    vectors_DV: NDArray[np.float32],
    merit: Sequence[int],
    groups: Sequence[str],
    *,
    threshold: float,
    clusters: int = 1,
    seed: int = 0,
) -> list[SemanticDuplicate]:
    """Return what goes, in order of merit; `merit` lists the documents best first, only equal `groups` are compared.

    With `clusters` above 1, only documents nearest to one centre are compared: for pools beyond a few hundred
    thousand, at some loss of recall. A zero vector resembles nothing.
    """
    labels_D = assign_clusters(vectors_DV, clusters, seed)
    cells: dict[tuple[str, int], list[int]] = {}
    for document in merit:
        if vectors_DV[document].any():
            cells.setdefault((groups[document], int(labels_D[document])), []).append(document)
    found = [item for cell in cells.values() for item in _remove_greedily(vectors_DV, np.array(cell), threshold)]
    place = {document: number for number, document in enumerate(merit)}
    return sorted(found, key=lambda item: place[item.removed])


def assign_clusters(vectors_DV: NDArray[np.float32], clusters: int, seed: int) -> NDArray[np.int64]:
    """Return the nearest of `clusters` centres for each document [D]: spherical k-means fitted on a sample."""
    if clusters <= 1 or len(vectors_DV) <= clusters:
        return np.zeros(len(vectors_DV), np.int64)
    source = np.random.default_rng(seed)
    sample = source.choice(len(vectors_DV), min(len(vectors_DV), CLUSTER_SAMPLE * clusters), replace=False)
    drawn_DV = vectors_DV[np.sort(sample)].astype(np.float64)
    centres_KV = drawn_DV[source.choice(len(drawn_DV), clusters, replace=False)]
    for _ in range(ITERATIONS):
        labels = np.argmax(drawn_DV @ centres_KV.T, axis=1)
        sums_KV = np.zeros_like(centres_KV)
        np.add.at(sums_KV, labels, drawn_DV)
        norms = np.linalg.norm(sums_KV, axis=1, keepdims=True)
        centres_KV = np.where(norms > 0, sums_KV / np.maximum(norms, 1e-12), centres_KV)
    blocks = (vectors_DV[start : start + BLOCK] for start in range(0, len(vectors_DV), BLOCK))
    return np.concatenate([np.argmax(block @ centres_KV.T, axis=1) for block in blocks])


def exact_cosine(vectors_DV: NDArray[np.float32], first: int, second: int) -> float:
    """Return the cosine of two documents, in float64."""
    a, b = vectors_DV[first].astype(np.float64), vectors_DV[second].astype(np.float64)
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def _remove_greedily(
    vectors_DV: NDArray[np.float32], cell: NDArray[np.int64], threshold: float
) -> list[SemanticDuplicate]:
    """Go through one cell, best first, a block of documents against the kept ones at a time."""
    found: list[SemanticDuplicate] = []
    kept = np.empty(0, np.int64)
    for start in range(0, len(cell), BLOCK):
        block = cell[start : start + BLOCK]
        near_BK = vectors_DV[block] @ vectors_DV[kept].T >= threshold - MARGIN
        near_BB = vectors_DV[block] @ vectors_DV[block].T >= threshold - MARGIN
        stays = np.zeros(len(block), bool)
        for number, document in enumerate(block):
            candidates = np.concatenate(
                [kept[near_BK[number]], block[:number][near_BB[number, :number] & stays[:number]]]
            )
            scored = [(exact_cosine(vectors_DV, document, other), other) for other in candidates]
            best = max(scored, key=lambda item: item[0], default=(-1.0, -1))
            if best[0] >= threshold:
                found.append(SemanticDuplicate(int(document), int(best[1]), best[0]))
            else:
                stays[number] = True
        kept = np.concatenate([kept, block[stays]])
    return found
