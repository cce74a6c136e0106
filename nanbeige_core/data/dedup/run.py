"""Deduplicate a corpus of shards: two passes over the text, files in between, evidence for every removal.

1. sign: the keys of every document (per shard)          3. collect: the shingle sets of candidates (per shard)
2. link: buckets of equal keys (per key range),           4. verify: exact Jaccard, best document stays (per group
   then components                                           of components)

Removed ids depend on the documents and the settings alone: merit is (quality, length, id), keys come from the text, and
components do not touch each other, so order, sharding and executor cannot change them. Memory holds a few dozen bytes
per document and the shingle sets of one group of components, never the text.
"""

import importlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanbeige_core.data.dedup.candidates import ComponentTask, LinkTask, link_partition, split_components
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns, choose, numbers
from nanbeige_core.data.dedup.signatures import (
    ShardTask,
    count_shard,
    sign_shard,
    verify_signatures,
    write_array,
    write_text,
)
from nanbeige_core.data.dedup.verification import CollectTask, VerifyTask, collect_shard, verify_part
from nanbeige_core.data.executors import Executor, LocalPool, Result, run_phase
from nanbeige_core.data.tables import count_values, read_table

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

DOCUMENTS_PER_PARTITION = 20_000
"""Keys of so many documents are sorted at a time, by each worker: 15 MB."""

DOCUMENTS_PER_VERIFIER = 8_000
"""Verifiers are at most one for so many documents, and at most one for each shard."""

BYTES_PER_SHINGLE, COMPRESSION = 6, 4
"""Of text, and of the files it is read from, roughly: they size the shingle counts, which are right at any size."""

LAYOUT = 4
"""Raised when the files between the phases change: a run that an older version began is not gone on with."""

ALARM_SHARE = 0.5
"""A source that lost a larger share of its documents to near-duplicates is reported whatever its cap."""


class DedupError(ValueError):
    """A deduplication cannot start or go on."""


class SourceAlarm(NamedTuple):
    """A source that lost more than its cap allows: how many of its documents, and how many were put back."""

    source: str
    documents: int
    removed: int
    put_back: int


@dataclass(frozen=True)
class DedupResult:
    """What was decided; `evidence` is a Parquet table (id, kept_id, reason, source, score), sorted by id."""

    evidence: Path
    documents: int
    removed: dict[str, int]
    by_source: dict[str, int]
    verified_pairs: int
    skipped_pairs: int
    candidates: int
    largest_component: int
    largest_group: int
    alarms: tuple[SourceAlarm, ...]

    def removed_ids(self) -> set[str]:
        """Return the ids that go."""
        return set(read_table(self.evidence, ["id"])["id"].to_pylist())


def deduplicate(
    shards: Sequence[Path],
    work: Path,
    settings: DedupSettings,
    *,
    columns: Columns | None = None,
    executor: Executor | None = None,
    known: Sequence[Path] = (),
) -> DedupResult:
    """Decide which documents of `shards` are duplicates, leaving evidence and signatures in `work`.

    `known` are work directories of earlier runs: what they kept stays and removes new twins, without being signed
    again. Finished work in `work` is reused. Raises DedupError, TableError, SignatureError or DuplicateIdError.
    """
    columns, executor = columns or Columns(), executor or LocalPool()
    if known and settings.mode == "exact":
        raise DedupError(
            "exact mode finds candidates by how rare each shingle is in the whole corpus, so it cannot go on from "
            "stored signatures. Use mode lsh, or deduplicate all shards together."
        )
    plan = _plan(shards, work, settings, columns)
    old = [task for folder in known for task in _known_tasks(folder, settings)]
    fresh = [_shard_task(shard, number, work, settings, columns) for number, shard in enumerate(shards)]
    if settings.mode == "exact":
        fresh = _with_frequencies(fresh, work, executor)
    for task, _ in old:
        verify_signatures(task)
    signed = run_phase(executor, work / "sign", sign_shard, fresh)
    stored = [json.loads((task.folder / "identity.json").read_text()) for task, _ in old]
    corpus = _Corpus.of([*(task for task, _ in old), *fresh], [item["documents"] for item in [*stored, *signed]], work)
    linked = _link(corpus, work, executor)
    removed = [evidence for _, evidence in old] + [None] * len(fresh)
    _collect(corpus, removed, len(old), work, executor)
    counts = _verify(corpus, work, settings, executor)
    totals: Counter[str] = Counter()
    for item in signed:
        totals.update(item["sources"])
    evidence, alarms = apply_source_cap(_read_evidence(work, len(counts)), totals, settings.source_cap)
    _write_evidence(work / "evidence.parquet", evidence)
    write_text(work / "run.json", json.dumps(plan))
    return DedupResult(
        evidence=work / "evidence.parquet",
        documents=sum(item["documents"] for item in signed),
        removed=count_values(evidence["reason"]),
        by_source=count_values(evidence["source"]),
        verified_pairs=sum(item["verified"] for item in counts),
        skipped_pairs=sum(item["skipped"] for item in counts),
        candidates=linked["candidates"],
        largest_component=linked["largest_component"],
        largest_group=max((item["largest_group"] for item in counts), default=0),
        alarms=alarms,
    )


def apply_source_cap(
    evidence: pa.Table, totals: Mapping[str, int], cap: float
) -> tuple[pa.Table, tuple[SourceAlarm, ...]]:
    """Put back the least similar near-duplicates of every source that lost more than `cap` of its documents.

    Keeping more documents cannot take the kept twin away from a removal, so the rest stays valid. A source that lost
    more than half raises an alarm whatever the cap.
    """
    reasons, reason_codes = _encoded(evidence["reason"])
    sources, source_codes = _encoded(evidence["source"])
    near = reasons == reason_codes.get("near_duplicate", -1)
    scores = numbers(evidence["score"])
    keep = np.ones(len(evidence), bool)
    alarms: list[SourceAlarm] = []
    for source, total in sorted(totals.items()):
        mine = np.flatnonzero(near & (sources == source_codes.get(source, -1)))
        excess = max(0, len(mine) - int(cap * total))
        # the table is sorted by id, so equal scores fall by id
        keep[mine[np.argsort(scores[mine], kind="stable")[:excess]]] = False
        if excess or len(mine) > ALARM_SHARE * total:
            alarms.append(SourceAlarm(source, total, len(mine) - excess, excess))
    return evidence.take(choose(keep)), tuple(alarms)


class _Corpus(NamedTuple):
    """The shards in order, the number of the first document of each, and how many each has."""

    tasks: list[ShardTask]
    firsts: tuple[int, ...]
    sizes: tuple[int, ...]
    partitions: int
    parts: int

    @staticmethod
    def of(tasks: list[ShardTask], sizes: list[int], work: Path) -> "_Corpus":
        total = sum(sizes)
        firsts = tuple(int(first) for first in np.cumsum([0, *sizes])[:-1])
        partitions = 1 + total // DOCUMENTS_PER_PARTITION
        return _Corpus(tasks, firsts, tuple(sizes), partitions, min(len(tasks), 1 + total // DOCUMENTS_PER_VERIFIER))


def _with_frequencies(tasks: list[ShardTask], work: Path, executor: Executor) -> list[ShardTask]:
    """Count every shingle of the corpus and return the tasks that use the counts."""
    path = work / "frequencies.npy"
    text_bytes = sum(task.shard.stat().st_size for task in tasks) * COMPRESSION
    slots = 1 << max(16, (text_bytes // BYTES_PER_SHINGLE).bit_length())
    counted = run_phase(executor, work / "count", count_shard, [replace(task, slots=slots) for task in tasks])
    del counted
    if not path.exists():
        table = np.zeros(slots, np.uint8)
        for task in tasks:
            part = np.load(task.folder / "frequencies.npy", mmap_mode="r")
            table += np.minimum(part, 255 - table)
        write_array(path, table)
    return [replace(task, frequencies=path) for task in tasks]


def _link(corpus: _Corpus, work: Path, executor: Executor) -> Result:
    folders, exchange = tuple(task.folder for task in corpus.tasks), work / "exchange"
    links = [
        LinkTask(folders, corpus.firsts, partition, corpus.partitions, exchange)
        for partition in range(corpus.partitions)
    ]
    run_phase(executor, work / "link", link_partition, links)
    shards = tuple(task.shard for task in corpus.tasks)
    split = ComponentTask(folders, shards, corpus.firsts, corpus.partitions, corpus.parts, exchange)
    return run_phase(executor, work / "split", split_components, [split])[0]


def _collect(corpus: _Corpus, removed: list[Path | None], known: int, work: Path, executor: Executor) -> None:
    tasks = [
        CollectTask(
            replace(task, folder=_collected(work, number)),
            first,
            size,
            corpus.parts,
            number < known,
            gone,
            work / "exchange",
        )
        for number, (task, first, size, gone) in enumerate(
            zip(corpus.tasks, corpus.firsts, corpus.sizes, removed, strict=True)
        )
    ]
    run_phase(executor, work / "collect", collect_shard, tasks)


def _verify(corpus: _Corpus, work: Path, settings: DedupSettings, executor: Executor) -> list[Result]:
    limit = settings.bucket_limit if settings.mode == "lsh" else np.iinfo(np.int64).max
    folders = tuple(_collected(work, number) for number in range(len(corpus.tasks)))
    tasks = [VerifyTask(part, folders, settings.jaccard, int(limit), work / "exchange") for part in range(corpus.parts)]
    return run_phase(executor, work / "verify", verify_part, tasks)


def _collected(work: Path, number: int) -> Path:
    return work / "collected" / f"{number:05d}"


def _encoded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], dict[str, int]]:
    """Return a code for each value of a column, and the code of each distinct one; a comparison would import pandas."""
    encoded = column.combine_chunks().dictionary_encode()
    return numbers(encoded.indices), {name: code for code, name in enumerate(encoded.dictionary.to_pylist())}


def _read_evidence(work: Path, parts: int) -> pa.Table:
    tables = [read_table(work / "exchange" / f"removed-{part:04d}.parquet") for part in range(parts)]
    table = pa.concat_tables(tables)
    # neither an empty table nor `sort_by`: both import pandas
    return table.take(pc.sort_indices(table, sort_keys=[("id", "ascending")]))


def _write_evidence(path: Path, evidence: pa.Table) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    pq.write_table(evidence, temporary, compression="zstd")
    os.replace(temporary, path)


def _plan(shards: Sequence[Path], work: Path, settings: DedupSettings, columns: Columns) -> dict[str, Any]:
    """Write what this work directory is for; raise DedupError when it was begun for something else."""
    if not shards:
        raise DedupError("no shard to deduplicate. Name at least one .parquet or .jsonl file.")
    plan = {
        "layout": LAYOUT,
        "settings": vars(settings),
        "columns": vars(columns),
        "shards": [[str(shard.absolute()), shard.stat().st_size] for shard in shards],
    }
    path = work / "plan.json"
    if path.exists() and json.loads(path.read_text()) != plan:
        raise DedupError(
            f"{work}: begun with other settings or shards, so its files cannot be gone on with. Use an empty directory."
        )
    work.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(plan))
    return plan


def _shard_task(shard: Path, number: int, work: Path, settings: DedupSettings, columns: Columns) -> ShardTask:
    return ShardTask(shard.absolute(), columns, settings, work / "shards" / f"{number:05d}")


def _known_tasks(folder: Path, settings: DedupSettings) -> list[tuple[ShardTask, Path]]:
    path = folder / "run.json"
    if not path.exists():
        raise DedupError(f"{folder}: no finished deduplication here. Name the work directory of one, or leave it out.")
    plan = json.loads(path.read_text())
    columns = Columns(**plan["columns"])
    shards = [Path(name) for name, _ in plan["shards"]]
    tasks = [_shard_task(shard, number, folder, settings, columns) for number, shard in enumerate(shards)]
    return [(task, folder / "evidence.parquet") for task in tasks]
