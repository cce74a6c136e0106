"""Curation: gate, decontaminate, remove duplicates, score by labels and seed retrieval, split into two tiers.

Every removed document leaves a row with its reason and evidence. The result does not depend on row order: documents
are brought into the order of their ids first and ties end at the id. Text stays on disk: each step goes through it
again, file by file on all cores, and memory holds a few dozen bytes of each document.
"""

import importlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.cores import usable_cores
from nanbeige_core.data.allocation import return_free_memory, return_large_blocks
from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.curation_report import Curation, TwinShare, report
from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.dedup.audit import measure_twin_share
from nanbeige_core.data.duplicates import (
    PARAGRAPH_SCHEMA,
    cut_repeated_paragraphs,
    dedup_settings,
    drop_duplicates,
    drop_same_meaning,
)
from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.evaluation_items import read_targets
from nanbeige_core.data.latent import count_parts, dense_vectors
from nanbeige_core.data.pool import ROWS_PER_FILE, Part, Pool
from nanbeige_core.data.reordering import ranks_of, reorder
from nanbeige_core.data.screening import screen
from nanbeige_core.data.seed_scores import Described, Scored, choose_high_tier, score_documents
from nanbeige_core.data.tables import (
    count_values,
    read_batches,
    read_rows,
    read_table,
    write_rows,
    write_table,
    write_table_shards,
)
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

# Shapes: D documents in the order of their ids.

CURATED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "text", "source", "category", "language", "licence")),
        *((name, pa.float32()) for name in ("tag_score", "similarity", "final_score")),
        ("tier", pa.string()),
        ("tokens_estimate", pa.int64()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [("id", pa.string()), ("reason", pa.string()), ("kept_id", pa.string()), ("score", pa.float32())]
)
TAGGED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "text", "source", "category", "language", "licence")),
        ("tag_score", pa.float32()),
        ("gate", pa.string()),
    ]
)
"""What curation reads of a tagged document."""

WHOLE_CHARACTERS = 8000
"""What semantic deduplication reads of a document: more than ingest makes of one."""


class EmptyPoolError(ValueError):
    """Every document was dropped."""


def run(job: Job) -> Outcome:
    """Write the curated documents in two tiers and every drop with its reason."""
    return_large_blocks()
    # sums of a linear algebra library depend on its threads, and an artifact must not
    with threadpool_limits(1, "blas"):
        return curate(job, usable_cores())


def curate(job: Job, workers: int) -> Outcome:
    """Do what the stage does, on so many threads; what it writes does not depend on them."""
    config: RetrievalDedupConfig = job.config
    built = job.inputs.get("embedding")
    embedding = TextEmbedding.load(built.path) if built else None
    targets = TargetIndex(
        read_targets(job.inputs["problems"].path, config.evaluation_tables), config.contamination_ngram
    )
    everything = order_by_id(job.inputs["tagged"].path / "documents", job.scratch / "ordered")
    _begin(job, 0.1, "decontaminating")
    clean, gone = screen(everything, targets, job.scratch / "clean", workers=workers)
    _begin(job, 0.3, "removing duplicates")
    kept, duplicates, evidence = drop_duplicates(clean, config, job.scratch / "dedup", workers)
    dropped = pa.concat_tables([gone, duplicates])
    if config.semantic_cosine:
        vectors_DV = embed_whole(kept.parts(workers), config, embedding, workers)
        kept, duplicates = drop_same_meaning(kept, vectors_DV, config, workers)
        dropped = pa.concat_tables([dropped, duplicates])
        del vectors_DV
    cut: Path | None = None
    if config.paragraph_characters:
        named = pc.unique(dropped["kept_id"])
        named = named.take(pc.sort_indices(named))
        kept, duplicates, cut = cut_repeated_paragraphs(kept, TAGGED_SCHEMA, named, config, job.scratch / "paragraphs")
        dropped = pa.concat_tables([dropped, duplicates])
        write_rows(job.work / "paragraphs.parquet", PARAGRAPH_SCHEMA, read_rows(cut))
    _begin(job, 0.6, "retrieving from seeds")
    described, parts = Described.of(kept, workers), kept.parts(workers)
    if not len(described):
        raise EmptyPoolError(
            f"none of {len(dropped)} documents is left ({count_values(dropped['reason'])}). Lower the "
            "gates of quality tagging, or ingest other documents."
        )
    scored = score_documents(parts, described, config, embedding, workers=workers)
    high_D = choose_high_tier(scored.final_D, described.tokens_D, config.hq_token_share)
    return_free_memory()
    curated = _curated_tables(kept.tables(_COPIED, workers), described, scored, high_D)
    write_table_shards(job.work / "documents", CURATED_SCHEMA, curated, rows_per_file=ROWS_PER_FILE)
    by_id = dropped.take(pc.sort_indices(dropped["id"]))
    write_table(job.work / "dropped.parquet", by_id.cast(DROPPED_SCHEMA).combine_chunks())
    _begin(job, 0.9, "looking for twins that are left")
    settings = dedup_settings(config)
    before, _ = measure_twin_share(clean.parts(workers), settings, workers)
    return_free_memory()
    after, audited = measure_twin_share(parts, settings, workers)
    done = Curation(everything, described, high_D, dropped, evidence, cut, targets.items, len(scored.seeds))
    return report(done, TwinShare(before, after, audited), config.jaccard)


def _begin(job: Job, done: float, step: str) -> None:
    """Begin a step of the stage without what the one before kept of the memory that it freed."""
    return_free_memory()
    job.progress(done, step)


def order_by_id(documents: Path, folder: Path) -> Pool:
    """Return the tagged documents in the order of their ids, as files of `folder`."""
    order = pc.sort_indices(read_table(documents, ["id"])["id"]).to_numpy().astype(np.int64)
    batches = (batch.cast(TAGGED_SCHEMA) for batch in read_batches(documents, TAGGED_SCHEMA.names))
    return Pool(tuple(reorder(batches, ranks_of(order), TAGGED_SCHEMA, folder, rows_per_file=ROWS_PER_FILE)))


def embed_whole(
    parts: list[Part], config: RetrievalDedupConfig, embedding: TextEmbedding | None, workers: int
) -> NDArray[np.float32]:
    """Return unit vectors [D, V] of whole documents, for semantic deduplication; all their terms are held at once."""
    if embedding:
        whole = replace(embedding, characters=WHOLE_CHARACTERS)
        return np.concatenate(list(map_in_order(lambda part: whole.embed(part.read()), parts, workers)))
    return dense_vectors(count_parts(parts, workers, WHOLE_CHARACTERS), config.semantic_vector_size, config.seed)


_COPIED = [name for name in CURATED_SCHEMA.names if name in TAGGED_SCHEMA.names]


def _curated_tables(
    tables: Iterator[pa.Table], described: Described, scored: Scored, high_D: NDArray[np.bool_]
) -> Iterator[pa.Table]:
    columns: dict[str, NDArray[Any]] = {
        "similarity": scored.similarity_D.astype(np.float32),
        "final_score": scored.final_D.astype(np.float32),
        "tier": np.where(high_D, "hq", "mq"),
        "tokens_estimate": described.tokens_D,
    }
    first = 0
    for table in tables:
        after = first + table.num_rows
        for name, values in columns.items():
            field = CURATED_SCHEMA.field(name)
            table = table.append_column(field, pa.array(values[first:after], field.type))
        yield table
        first = after
