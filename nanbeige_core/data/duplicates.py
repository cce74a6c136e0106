"""What duplicates the curation stage removes: copies and near-copies, same meaning, repeated paragraphs.

The order matters: paragraphs are cut last, so that the document which keeps one is never removed afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
from nanbeige_core.data.pool import Pool, Row
from nanbeige_core.data.tables import read_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig

PROSE_SCHEMA = pa.schema([*((name, pa.string()) for name in ("id", "text", "source")), ("tag_score", pa.float64())])
"""What the search for repeated paragraphs reads of a document."""

PARAGRAPH_SCHEMA = pa.schema([*CUT_SCHEMA, ("opening", pa.string())])
COLUMNS = Columns(quality="tag_score", source="source")
OPENING = 80
"""Characters of a cut paragraph that its evidence quotes."""


@dataclass(frozen=True)
class Dropped:
    """Evidence of one removal."""

    id: str
    reason: str
    kept_id: str
    score: float


class ParagraphCuts(NamedTuple):
    """What cutting repeated paragraphs left: documents, removals, and a row of evidence for each paragraph cut."""

    kept: Pool
    dropped: list[Dropped]
    evidence: list[Row]


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
) -> tuple[Pool, list[Dropped], DedupResult]:
    """Remove exact copies and verified near-duplicates of a whole pool; the best by (score, length, id) stays."""
    found = deduplicate(pool.files, work, dedup_settings(config), columns=COLUMNS, executor=LocalPool(workers))
    dropped = [
        Dropped(row["id"], row["reason"], row["kept_id"], row["score"])
        for row in read_rows(found.evidence, ("id", "reason", "kept_id", "score"))
    ]
    return pool.without(item.id for item in dropped), dropped, found


def drop_same_meaning(
    pool: Pool, vectors_DV: NDArray[np.float32], config: RetrievalDedupConfig
) -> tuple[Pool, list[Dropped]]:
    """Remove documents whose vector comes too close to that of a kept, better one in the same language."""
    rows = [
        (-row["tag_score"], -len(row["text"]), row["id"], row["language"])
        for row in pool.rows("tag_score", "text", "language")
    ]
    found = find_semantic_duplicates(
        vectors_DV,
        sorted(range(len(rows)), key=rows.__getitem__),
        [language for *_, language in rows],
        threshold=config.semantic_cosine,
        clusters=config.semantic_clusters,
        seed=config.seed,
    )
    dropped = [Dropped(rows[item.removed][2], "semantic_duplicate", rows[item.kept][2], item.cosine) for item in found]
    return pool.without(item.id for item in dropped), dropped


def cut_repeated_paragraphs(
    pool: Pool, schema: pa.Schema, named: set[str], config: RetrievalDedupConfig, work: Path
) -> ParagraphCuts:
    """Cut long paragraphs that a better document holds; drop a document of which nothing but short ones would remain.

    Programs are left alone: half a program is none. So is a document to be dropped that is `named` as the kept one in
    earlier evidence. What is kept has the columns of `schema`.
    """
    prose = Pool.write(work / "prose", PROSE_SCHEMA, (row for row in pool.rows() if row["language"] != "code"))
    found = find_repeated_paragraphs(prose.files, work, characters=config.paragraph_characters, columns=COLUMNS)
    cuts: dict[str, list[Row]] = {}
    for cut in found.to_pylist():
        cuts.setdefault(cut["id"], []).append(cut)
    dropped: list[Dropped] = []
    evidence: list[Row] = []

    def cut_each() -> Iterator[Row]:
        for row in pool.rows():
            mine = cuts.get(row["id"], [])
            if mine and len(mine) == sum(1 for _ in long_paragraphs(row["text"], config.paragraph_characters)):
                if row["id"] not in named:
                    longest = max(mine, key=lambda cut: (cut["characters"], -cut["paragraph"]))
                    share = sum(cut["characters"] for cut in mine) / len(row["text"])
                    dropped.append(Dropped(row["id"], "repeated_paragraphs", longest["kept_id"], min(1.0, share)))
                    evidence.extend(_quote(row["text"], mine))
                    continue
                mine = []
            evidence.extend(_quote(row["text"], mine))
            yield row | {"text": cut_paragraphs(row["text"], {cut["paragraph"] for cut in mine})}

    return ParagraphCuts(Pool.write(work / "kept", schema, cut_each()), dropped, evidence)


def _quote(text: str, cuts: list[Row]) -> Iterator[Row]:
    paragraphs = split_paragraphs(text)[::2]
    for cut in cuts:
        yield cut | {"opening": paragraphs[cut["paragraph"]][:OPENING]}
