"""One query over text and vectors: BM25 and cosine, filtered by provenance and quality, fused by reciprocal rank.

Both scans are exact: BM25 reads the posting lists of the terms, the vectors are one matrix product. Up to a few
hundred thousand documents that costs less than building an approximate index.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.terms import QUERY_TERMS, bm25_weights, count_terms, inverse_frequency

# Shapes: D documents, F features, V vector size.

COLUMNS = ("source", "category", "language")

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class Filters(NamedTuple):
    """What a document must be to be found; an empty tuple lets every value pass."""

    sources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    minimum_score: float = float("-inf")


class Hit(NamedTuple):
    """A document that was found: its row, its fused score, and its rank with each retriever (0: not among the best)."""

    row: int
    score: float
    text_rank: int
    vector_rank: int


class HybridIndex:
    """Posting lists and vectors of documents, and the columns that filters read; the documents themselves stay away."""

    def __init__(
        self,
        postings_DF: sparse.csc_matrix,
        rarity_F: NDArray[np.float32],
        vectors_DV: NDArray[np.float32],
        columns: dict[str, NDArray[Any]],
        quality_D: NDArray[np.float64],
    ) -> None:
        """Take what `build` computed or `load` read."""
        self._postings_DF = postings_DF
        self._rarity_F = rarity_F
        self._vectors_DV = vectors_DV
        self._columns = columns
        self._quality_D = quality_D

    @staticmethod
    def build(documents: pa.Table, embed: Embed, score: str = "tag_score") -> "HybridIndex":
        """Index a table with text, source, category, language and the column `score`."""
        texts: list[str] = documents["text"].to_pylist()
        counts = count_terms(texts, dense=False, spelled=True)
        return HybridIndex(
            sparse.csc_matrix(bm25_weights(counts)),
            inverse_frequency(counts),
            embed(texts),
            {name: np.array(documents[name].to_pylist(), dtype=np.str_) for name in COLUMNS},
            np.array(documents[score].to_pylist(), dtype=np.float64),
        )

    def save(self, path: Path, **further: NDArray[Any]) -> None:
        """Write the index, and arrays that belong to it, atomically."""
        postings = self._postings_DF
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part.npz")
        arrays = {
            "data": postings.data,
            "indices": postings.indices,
            "indptr": postings.indptr,
            "rarity": self._rarity_F,
        }
        arrays |= {"vectors": self._vectors_DV, "quality": self._quality_D, **self._columns, **further}
        np.savez(temporary, allow_pickle=False, **arrays)
        os.replace(temporary, path)

    @staticmethod
    def load(path: Path) -> tuple["HybridIndex", dict[str, NDArray[Any]]]:
        """Read an index and the arrays stored with it; raises OSError, ValueError, KeyError or BadZipFile."""
        with np.load(path) as stored:
            read = dict(stored)
        shape = (len(read["quality"]), len(read["rarity"]))
        postings = sparse.csc_matrix(tuple(read.pop(name) for name in ("data", "indices", "indptr")), shape=shape)
        columns = {name: read.pop(name) for name in COLUMNS}
        index = HybridIndex(postings, read.pop("rarity"), read.pop("vectors"), columns, read.pop("quality"))
        return index, read

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self._quality_D)

    def allowed(self, filters: Filters) -> NDArray[np.bool_]:
        """Return which documents [D] pass the filters."""
        mask = self._quality_D >= filters.minimum_score
        wanted = {"source": filters.sources, "category": filters.categories, "language": filters.languages}
        for name, values in wanted.items():
            if values:
                mask &= np.isin(self._columns[name], values)
        return mask

    def known_values(self, column: str) -> list[str]:
        """Return the values of a filtered column."""
        return np.unique(self._columns[column]).tolist()

    def text_scores(self, query: str) -> NDArray[np.float32]:
        """Return the BM25 score [D] of every document for the query's rarest terms."""
        terms = np.unique(count_terms([query], dense=False, spelled=True).indices)
        terms = terms[np.argsort(-self._rarity_F[terms], kind="stable")[:QUERY_TERMS]]
        scores_D = np.zeros(len(self), np.float32)
        for term in terms:
            start, end = self._postings_DF.indptr[term], self._postings_DF.indptr[term + 1]
            scores_D[self._postings_DF.indices[start:end]] += self._postings_DF.data[start:end]
        return scores_D

    def vector_scores(self, vector_V: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosine [D] of every document with a query's vector."""
        return self._vectors_DV @ vector_V

    def search(
        self,
        query: str,
        vector_V: NDArray[np.float32],
        count: int,
        *,
        filters: Filters | None = None,
        depth: int = 100,
        k: float = 60.0,
    ) -> list[Hit]:
        """Return the best `count` documents that pass the filters; each retriever ranks its first `depth` of them."""
        allowed_D = self.allowed(filters or Filters())
        fused_D = np.zeros(len(self))
        ranks: list[dict[int, int]] = []
        for scores_D in (self.text_scores(query), self.vector_scores(vector_V)):
            best = _best(np.where(allowed_D, scores_D, -np.inf), depth)
            fused_D[best] += 1.0 / (k + 1 + np.arange(len(best)))
            ranks.append({int(row): rank for rank, row in enumerate(best, start=1)})
        found = [int(row) for row in _best(fused_D, count)]
        return [Hit(row, float(fused_D[row]), ranks[0].get(row, 0), ranks[1].get(row, 0)) for row in found]


def _best(scores_D: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the rows of the best positive scores, best first; equal scores stand in the order of rows."""
    count = min(count, len(scores_D))
    if count == 0:
        return np.empty(0, np.int64)
    # everything that reaches the last of the best stays, so that ties at the border fall by row
    border = np.partition(scores_D, len(scores_D) - count)[len(scores_D) - count]
    rows = np.flatnonzero((scores_D >= border) & (scores_D > 0))
    return rows[np.argsort(-scores_D[rows], kind="stable")][:count]
