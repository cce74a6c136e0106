"""What duplicates the curation stage removes: copies and near-copies, same meaning, repeated paragraphs.

The order matters: paragraphs are cut last, so that the document which keeps one is never removed afterwards.
"""

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.data.dedup.paragraphs import (
    CUT_SCHEMA,
    cut_paragraphs,
    find_repeated_paragraphs,
    long_paragraphs,
    split_paragraphs,
)
from nanbeige_core.data.dedup.run import DedupResult, deduplicate
from nanbeige_core.data.dedup.semantic import find_semantic_duplicates
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns
from nanbeige_core.data.executors import LocalPool
from nanbeige_core.data.pool import Pool, Row, rows_of, span_among
from nanbeige_core.data.tables import read_table, write_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

PROSE_SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "text", "source")), ("tag_score", pa.float64())])
"""What the search for repeated paragraphs reads of a document."""

PARAGRAPH_SCHEMA = pa.schema([*CUT_SCHEMA, ("opening", pa.string())])
COLUMNS = Columns(quality="tag_score", source="source")
OPENING = 80
"""Characters of a cut paragraph that its evidence quotes."""


DROPS_SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "reason", "kept_id")), ("score", pa.float64())])
"""Evidence of removals, a row each. As objects they would take several times the memory."""


class ParagraphCuts(NamedTuple):
    """What cutting repeated paragraphs left: documents, removals, and files with a row for each paragraph cut."""

    kept: Pool
    dropped: pa.Table
    evidence: Path


def drops(rows: Iterable[tuple[str, str, str, float]]) -> pa.Table:
    """Return removals (id, reason, kept id, score) as a table of DROPS_SCHEMA."""
    columns = list(zip(*rows, strict=True)) or [()] * len(DROPS_SCHEMA)
    return pa.table(
        [pa.array(values, kind) for values, kind in zip(columns, DROPS_SCHEMA.types, strict=True)], DROPS_SCHEMA
    )


def dedup_settings(config: RetrievalDedupConfig) -> DedupSettings:
    """Return what the stage's config says about near-duplicates."""
    return DedupSettings(
        mode=config.dedup_mode,
        bands=config.bands,
        rows_per_band=config.rows_per_band,
        shingle_words=config.shingle_words,
        shingle_characters=config.shingle_characters,
        jaccard=config.jaccard,
        source_cap=config.source_cap,
        seed=config.seed,
    )


def drop_duplicates(
    pool: Pool, config: RetrievalDedupConfig, work: Path, workers: int = 1
) -> tuple[Pool, pa.Table, DedupResult]:
    """Remove exact copies and verified near-duplicates of a whole pool; the best by (score, length, id) stays."""
    found = deduplicate(pool.files, work, dedup_settings(config), columns=COLUMNS, executor=LocalPool(workers))
    dropped = read_table(found.evidence, DROPS_SCHEMA.names).select(DROPS_SCHEMA.names).cast(DROPS_SCHEMA)
    return pool.without(dropped["id"]), dropped, found


def drop_same_meaning(
    pool: Pool, vectors_DV: NDArray[np.float32], config: RetrievalDedupConfig, workers: int = 1
) -> tuple[Pool, pa.Table]:
    """Remove documents whose vector comes too close to that of a kept, better one in the same language."""
    tables = pool.tables(("id", "tag_score", "language", "text"), workers)
    lengths = (table.append_column("length", pc.utf8_length(table["text"])) for table in tables)
    described = pa.concat_tables([table.drop_columns("text") for table in lengths])
    keys = [("tag_score", "descending"), ("length", "descending"), ("id", "ascending")]
    found = find_semantic_duplicates(
        vectors_DV,
        pc.sort_indices(described, sort_keys=keys).to_pylist(),
        described["language"].to_pylist(),
        threshold=config.semantic_cosine,
        clusters=config.semantic_clusters,
        seed=config.seed,
    )
    removed, kept = (
        described["id"].take(pa.array([item[place] for item in found], pa.int64())).to_pylist() for place in (0, 1)
    )
    scores = [item.cosine for item in found]
    dropped = drops(
        (mine, "semantic_duplicate", other, score) for mine, other, score in zip(removed, kept, scores, strict=True)
    )
    return pool.without(dropped["id"]), dropped


def cut_repeated_paragraphs(
    pool: Pool, schema: pa.Schema, named: pa.Array, config: RetrievalDedupConfig, work: Path
) -> ParagraphCuts:
    """Cut long paragraphs that a better document holds; drop a document of which nothing but short ones would remain.

    Programs are left alone: half a program is none. So is a document to be dropped that is `named` (ids ascending) as
    the kept one in earlier evidence. What is kept has the columns of `schema`.
    """
    prose = Pool.write(work / "prose", PROSE_SCHEMA, (row for row in pool.rows() if row["language"] != "code"))
    found = find_repeated_paragraphs(prose.files, work, characters=config.paragraph_characters, columns=COLUMNS)
    dropped, evidence = [drops([])], work / "cut"

    def cut_each() -> Iterator[Row]:
        for number, table in enumerate(pool.tables(schema.names)):
            mine = _Cuts.of(table, found, named, config.paragraph_characters)
            yield from (row for row in map(mine.cut, rows_of(table)) if row is not None)
            dropped.append(drops(mine.dropped))
            write_rows(evidence / f"{number:05d}.parquet", PARAGRAPH_SCHEMA, mine.evidence)

    kept = Pool.write(work / "kept", schema, cut_each())
    return ParagraphCuts(kept, pa.concat_tables(dropped), evidence)


@dataclass
class _Cuts:
    """The paragraphs to cut from the documents of one file, and what became of it."""

    by_document: dict[str, list[Row]]
    named: set[str]
    characters: int
    dropped: list[tuple[str, str, str, float]] = field(default_factory=list)
    evidence: list[Row] = field(default_factory=list)

    @staticmethod
    def of(table: pa.Table, found: pa.Table, named: pa.Array, characters: int) -> "_Cuts":
        cuts: dict[str, list[Row]] = {}
        span = span_among(table["id"], found["id"])
        for cut in found.slice(span.start, span.stop - span.start).to_pylist():
            cuts.setdefault(cut["id"], []).append(cut)
        return _Cuts(cuts, set(named[span_among(table["id"], named)].to_pylist()), characters)

    def cut(self, row: Row) -> Row | None:
        """Return what is left of a document, None when it goes."""
        mine = self.by_document.get(row["id"], [])
        if mine and len(mine) == sum(1 for _ in long_paragraphs(row["text"], self.characters)):
            if row["id"] not in self.named:
                longest = max(mine, key=lambda cut: (cut["characters"], -cut["paragraph"]))
                share = sum(cut["characters"] for cut in mine) / len(row["text"])
                self.dropped.append((row["id"], "repeated_paragraphs", longest["kept_id"], min(1.0, share)))
                self.evidence.extend(_quote(row["text"], mine))
                return None
            mine = []
        self.evidence.extend(_quote(row["text"], mine))
        return row | {"text": cut_paragraphs(row["text"], {cut["paragraph"] for cut in mine})}


def _quote(text: str, cuts: list[Row]) -> Iterator[Row]:
    paragraphs = split_paragraphs(text)[::2]
    for cut in cuts:
        yield cut | {"opening": paragraphs[cut["paragraph"]][:OPENING]}
