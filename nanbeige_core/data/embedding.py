"""A bilingual text embedding without a pretrained model: latent semantic analysis over aligned pages.

A page and its translation make one row of the term matrix, so a direction of its singular value decomposition holds the
words of both languages for one subject (Dumais et al., cross-language LSI). Documents of the pool join as rows of their
own, so that subjects without a translation, programs among them, get directions too. A new text is its weighted terms
times the right singular vectors.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.terms import count_words, inverse_frequency

# Shapes: D documents, F features, V vector size, P pairs.

LATIN = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class TextEmbedding:
    """Term weights and the projection of hashed terms; `characters` is how much of a text is read."""

    weights_F: NDArray[np.float32]
    projection_FV: NDArray[np.float32]
    characters: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors [D, V]; a text without a known term gets zeros."""
        terms_DF = weigh_terms(count_words(texts, len(self.weights_F), self.characters), self.weights_F)
        vectors_DV = np.asarray(terms_DF @ self.projection_FV, dtype=np.float32)
        return vectors_DV / np.maximum(np.linalg.norm(vectors_DV, axis=1, keepdims=True), 1e-9)

    def save(self, folder: Path) -> None:
        """Write the embedding into a directory."""
        np.savez(folder / "embedding.npz", **vars(self))

    @staticmethod
    def load(folder: Path) -> "TextEmbedding":
        """Read an embedding that `save` wrote."""
        with np.load(folder / "embedding.npz") as stored:
            return TextEmbedding(stored["weights_F"], stored["projection_FV"], int(stored["characters"]))


def fit_embedding(
    pairs: Sequence[tuple[str, str]],
    documents: Sequence[str],
    *,
    size: int,
    buckets: int,
    characters: int,
    pair_weight: float,
    seed: int,
) -> TextEmbedding:
    """Fit the embedding; `pair_weight` is what a pair counts against a document of the pool."""
    from sklearn.utils.extmath import randomized_svd

    counts = [
        count_words(texts, buckets, characters)
        for texts in ([pair[0] for pair in pairs], [pair[1] for pair in pairs], documents)
    ]
    weights_F = inverse_frequency(sparse.csr_matrix(sparse.vstack(counts)))
    first_PF, second_PF, pool_DF = (weigh_terms(part, weights_F) for part in counts)
    joint_PF = _unit_rows(sparse.csr_matrix(first_PF + second_PF)) * pair_weight
    matrix = sparse.csr_matrix(sparse.vstack([joint_PF, pool_DF]))
    size = min(size, *(side - 1 for side in cast(tuple[int, int], matrix.shape)))
    _, _, right_VF = randomized_svd(matrix, size, n_iter=3, random_state=seed)  # pyright: ignore[reportArgumentType]
    return TextEmbedding(weights_F, np.ascontiguousarray(right_VF.T, dtype=np.float32), characters)


def weigh_terms(counts: sparse.csr_matrix, weights_F: NDArray[np.float32]) -> sparse.csr_matrix:
    """Return unit rows of log counts times term weights."""
    weighted = counts.copy()
    weighted.data = np.log1p(weighted.data) * weights_F[weighted.indices]
    return _unit_rows(weighted)


def without_latin(text: str) -> str:
    """Return a text without its Latin letters and digits: a page of which nothing was left untranslated."""
    return LATIN.sub(" ", text)


def measure_retrieval(
    queries_DV: NDArray[np.float32], pages_DV: NDArray[np.float32], depths: Sequence[int] = (1, 10)
) -> dict[str, float]:
    """Return recall at each depth and mean reciprocal rank, when query d looks for page d among all pages.

    A page that scores as high as the wanted one counts as before it, so that constant vectors find nothing.
    """
    scores_DD = queries_DV @ pages_DV.T
    ranks_D = (scores_DD >= np.diag(scores_DD)[:, None]).sum(axis=1)
    found: dict[str, Any] = {f"recall@{depth}": float(np.mean(ranks_D <= depth)) for depth in depths}
    return found | {"mrr": float(np.mean(1.0 / ranks_D))}


def _unit_rows(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    norms = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return sparse.csr_matrix(sparse.diags((1 / np.maximum(norms, 1e-9)).astype(np.float32)) @ rows)
