"""A table of documents that one query searches by text and by vector: BM25 and cosine, fused by reciprocal rank.

The table is a Lance dataset with a full-text index over our own bilingual terms; Parquet stays what an artifact is, the
table is made of it by `document_table_build` and may be deleted at any time. Opening it reads a few small files, a
query what it needs. Provenance and quality are conditions of both searches, so a filter never costs a hit.
"""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.latent import LatentEmbedding
from nanbeige_core.data.terms import QUERY_TERMS, count_terms, spell_terms

# Shapes: B documents of a batch, Q queries, N hits of a query, F features, V vector size.

LAYOUT = 1
"""Of what `document_table_build` writes; a table of another layout is not opened."""

DATASET, SUMMARY, FREQUENCIES, EMBEDDING = "documents.lance", "table.json", "frequencies.npy", "embedding.npz"

FILTERED = ("source", "category", "language")
COLUMNS = ("id", "text", *FILTERED, "tag_score")
"""Columns of an artifact that the table holds; `terms` and `vector` join them."""

SPARE = 28
"""Further hits that are asked for, so that a tie at the border is seen and can fall by row."""

REFINED = 4
"""An approximate search visits (`ef`) and rescores with full vectors so many times what it is asked for. Without it
Lance's recall@10 was 0.89, with two 0.992, with four 0.994 (200,000 documents, benchmarks/retrieval.py --ann)."""

COSINE_DECIMALS = 6
"""Cosines that differ by less are equal, and stand in row order: float32 knows no more of them."""

SCANNED_ROWS = 8192
"""Vectors that a scan for many queries holds at a time."""

REMEDY = "Delete the folder; the next question builds the table again."
_DAMAGE = (OSError, KeyError, TypeError, ValueError, RuntimeError, BadZipFile, pa.ArrowException)

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


class DocumentTableError(ValueError):
    """A document table cannot be built, opened or asked; the message says what to do."""


class Filters(NamedTuple):
    """What a document must be to be found; an empty tuple lets every value pass."""

    sources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    minimum_score: float = float("-inf")

    def condition(self) -> str | None:
        """Return the filters as an SQL condition, None when every document passes."""
        wanted = zip(FILTERED, (self.sources, self.categories, self.languages), strict=True)
        parts = [f"{name} IN ({', '.join(map(_quoted, values))})" for name, values in wanted if values]
        if self.minimum_score > float("-inf"):
            parts.append(f"tag_score >= {float(self.minimum_score)!r}")
        return " AND ".join(parts) or None


class Hit(NamedTuple):
    """A document that was found: its row, its fused score, and its rank with each retriever (0: not among the best)."""

    row: int
    score: float
    text_rank: int
    vector_rank: int


class DocumentTable:
    """An open table; its rows are those of the artifact, in the artifact's order."""

    def __init__(self, folder: Path) -> None:
        """Open the table in a folder; raises DocumentTableError when it is not there, not whole or of another layout.

        Whole means that every file has the size that it had when it was written.
        """
        import lance

        self.folder = folder
        with _explained(folder):
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            if summary["layout"] != LAYOUT:
                raise DocumentTableError(f"{folder}: layout {summary['layout']}, expected {LAYOUT}. {REMEDY}")
            wrong = [name for name, size in summary["files"].items() if (folder / name).stat().st_size != size]
            if wrong:
                raise DocumentTableError(f"{folder / wrong[0]}: cut off or changed after it was written. {REMEDY}")
            self._dataset = lance.dataset(folder / DATASET)
            fragments = self._dataset.get_fragments()
            if [fragment.fragment_id for fragment in fragments] != list(range(len(fragments))):
                raise DocumentTableError(f"{folder}: its fragments are not those that were committed. {REMEDY}")
            sizes = [fragment.count_rows() for fragment in fragments]
        self._values: dict[str, list[str]] = summary["values"]
        self._lowest: float | None = summary["lowest_score"]
        self._approximate: bool = summary["approximate"]
        self._firsts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self._firsts[-1])

    @cached_property
    def embed(self) -> Embed:
        """What makes the vectors of this table; a query must get its vector from it."""
        return self._asked(lambda: load_embedder(self.folder / EMBEDDING))

    @cached_property
    def _frequencies_F(self) -> NDArray[np.int32]:
        return self._asked(lambda: np.load(self.folder / FREQUENCIES))

    def known_values(self, column: str) -> list[str]:
        """Return the values of a filtered column, sorted."""
        return self._values[column]

    def count_allowed(self, filters: Filters) -> int:
        """Return how many documents pass the filters."""
        return self._asked(lambda: self._dataset.count_rows(self._condition(filters)))

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
        """Return the best `count` documents that pass the filters; each retriever ranks its first `depth` of them.

        A document's score is the sum of 1 / (k + rank) over the retrievers (Cormack et al., reciprocal rank fusion).
        Equal scores stand in the order of rows.
        """
        found = (self.rank_text(query, depth, filters)[0], self.rank_vectors(vector_V, depth, filters)[0])
        ranks = [{row: rank for rank, row in enumerate(rows.tolist(), start=1)} for rows in found]
        fused = {row: sum(1.0 / (k + rank[row]) for rank in ranks if row in rank) for row in {*ranks[0], *ranks[1]}}
        best = sorted(fused, key=lambda row: (-fused[row], row))[:count]
        return [Hit(row, fused[row], ranks[0].get(row, 0), ranks[1].get(row, 0)) for row in best]

    def rank_text(
        self, query: str, depth: int, filters: Filters | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best rows by BM25 and their scores, for the query's rarest terms.

        The constants are those of `terms`; rarity and mean length are of all documents that have a term, whether they
        pass the filters or not.
        """
        from lance.query import MatchQuery

        terms = self._query_terms(query)
        if not len(terms):
            return np.empty(0, np.int64), np.empty(0, np.float32)
        match = MatchQuery(spell_terms(terms), "terms")

        def ask(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            return self._scan("_score", filters, full_text_query=match, limit=limit)

        return best_rows(ask, depth, len(self))

    def rank_vectors(
        self, vector_V: NDArray[np.float32], depth: int, filters: Filters | None = None, *, exact: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best rows by cosine, where it is positive, and the cosines.

        The scan is exact unless the table has an approximate index and `exact` does not forbid it.
        """
        if not vector_V.any():
            return np.empty(0, np.int64), np.empty(0, np.float32)

        def ask(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            nearest: dict[str, Any] = {"column": "vector", "q": vector_V, "k": limit, "metric": "dot"}
            if self._approximate and not exact:
                nearest |= {"ef": REFINED * limit, "refine_factor": REFINED}
            else:
                nearest["use_index"] = False
            rows, distances = self._scan("_distance", filters, nearest=nearest)
            return rows, np.round(1 - distances, COSINE_DECIMALS)

        rows, cosines = best_rows(ask, depth, len(self))
        return rows[cosines > 0], cosines[cosines > 0]

    def batch_scan(
        self, vectors_QV: NDArray[np.float32], count: int, filters: Filters | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the best rows [Q, N] of many queries by cosine and the cosines, by one exact scan of all vectors.

        Where fewer documents have a positive cosine, row -1 and cosine 0 stand. Equal cosines stand in row order.
        """
        count = min(count, len(self))
        rows_QN = np.full((len(vectors_QV), count), -1, np.int64)
        cosines_QN = np.zeros((len(vectors_QV), count), np.float32)
        batches = self._asked(
            lambda: self._dataset.to_batches(
                ["vector"], filter=self._condition(filters), with_row_id=True, batch_size=SCANNED_ROWS
            )
        )
        while (batch := self._asked(lambda: next(batches, None))) is not None:
            rows_B = self._rows(batch["_rowid"])
            vectors_BV = batch["vector"].flatten().to_numpy().reshape(len(rows_B), -1)
            scores_QB = np.round(vectors_QV @ vectors_BV.T, COSINE_DECIMALS)
            for query in np.flatnonzero((scores_QB > cosines_QN[:, -1:]).any(axis=1)):
                # a later row loses a tie, so only a larger cosine gets in
                better = np.flatnonzero(scores_QB[query] > cosines_QN[query, -1])
                cosines = np.concatenate([cosines_QN[query], scores_QB[query, better]])
                rows = np.concatenate([rows_QN[query], rows_B[better]])
                order = np.lexsort((rows, rows < 0, -cosines))[:count]
                rows_QN[query], cosines_QN[query] = rows[order], cosines[order]
        return rows_QN, cosines_QN

    def take(self, rows: Sequence[int], columns: Sequence[str] = COLUMNS) -> list[dict[str, Any]]:
        """Return documents by their rows, in the order asked for."""
        return self._asked(lambda: self._dataset.take(list(rows), list(columns)).to_pylist()) if rows else []

    def _query_terms(self, query: str) -> NDArray[np.int64]:
        terms = np.unique(count_terms([query], dense=False, spelled=True).indices).astype(np.int64)
        terms = terms[self._frequencies_F[terms] > 0]
        return terms[np.argsort(self._frequencies_F[terms], kind="stable")[:QUERY_TERMS]]

    def _condition(self, filters: Filters | None) -> str | None:
        filters = filters or Filters()
        if self._lowest is not None and filters.minimum_score <= self._lowest:
            filters = filters._replace(minimum_score=float("-inf"))  # a condition that all meet costs a scan
        return filters.condition()

    def _scan(
        self, score: str, filters: Filters | None, **options: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        condition = self._condition(filters)
        found = self._asked(
            lambda: self._dataset.to_table([score], filter=condition, prefilter=True, with_row_id=True, **options)
        )
        return self._rows(found["_rowid"]), found[score].to_numpy()

    def _rows(self, addresses: pa.Array) -> NDArray[np.int64]:
        """Return the rows of Lance's addresses: the fragment above 32 bits, the place in it below."""
        addressed = addresses.to_numpy()
        return self._firsts[addressed >> np.uint64(32)] + (addressed & np.uint64(0xFFFFFFFF)).astype(np.int64)

    def _asked(self, ask: Callable[[], Any]) -> Any:
        with _explained(self.folder):
            return ask()


def load_embedder(path: Path) -> Embed:
    """Read the embedding of a table: that of an artifact, or the latent space of the documents themselves."""
    with np.load(path) as stored:
        latent = "right_VF" in stored
    return LatentEmbedding.load(path) if latent else TextEmbedding.load(path.parent).embed


def best_rows(
    ask: Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]], depth: int, documents: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the first `depth` rows and their scores, best first, equal scores in the order of rows.

    A retriever breaks ties as it likes, so more is asked for until a score below the border comes, or nothing more.
    """
    limit = depth + SPARE
    while True:
        rows, scores = ask(min(limit, documents))
        order = np.lexsort((rows, -scores))
        if len(rows) < limit or scores[order[-1]] < scores[order[depth - 1]]:
            return rows[order[:depth]], scores[order[:depth]]
        limit *= 4


@contextmanager
def _explained(folder: Path) -> Generator[None]:
    """Turn what damage raises into an error that says what to do."""
    try:
        yield
    except DocumentTableError:
        raise
    except BaseException as error:
        # what a panic of Lance becomes is no Exception, and its class cannot be imported
        if isinstance(error, _DAMAGE) or type(error).__name__ == "PanicException":
            raise DocumentTableError(f"{folder}: the document table cannot be read ({error}). {REMEDY}") from error
        raise


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
