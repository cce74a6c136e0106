"""Second pass: read the shingle sets of candidates alone, and decide by exact Jaccard, component by component."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.dedup.candidates import load_part_buckets, shard_candidates
from nanbeige_core.data.dedup.kernels import shingle_sets
from nanbeige_core.data.dedup.shards import (
    choose,
    number_column,
    numbers,
    read_batches,
    string_column,
    text_buffers,
)
from nanbeige_core.data.dedup.signatures import ShardTask, write_array
from nanbeige_core.data.dedup.units import lower_table
from nanbeige_core.data.executors import Result
from nanbeige_core.data.tables import read_rows

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

# Shapes: D candidates of one verifier in order of merit, S their shingles end to end.

NEW, KEPT, GONE = 0, 1, 2
"""What is known of a document beforehand: nothing, that an earlier run kept it, or that it removed it."""

EVIDENCE_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "kept_id", "reason", "source")),
        ("score", pa.float64()),
    ]
)


_EMPTY_PART = pa.schema(
    [
        ("id", pa.large_string()),
        ("source", pa.large_string()),
        ("quality", pa.float64()),
        ("length", pa.int64()),
        ("size", pa.int64()),
        ("fold_0", pa.uint64()),
        ("fold_1", pa.uint64()),
        ("state", pa.int8()),
        ("document", pa.int64()),
    ]
)


@dataclass(frozen=True)
class CollectTask:
    """The candidates of one shard; `removed` is the evidence of the run that knew this shard, if one did."""

    shard: ShardTask
    first: int
    documents: int
    parts: int
    known: bool
    removed: Path | None
    exchange: Path


@dataclass(frozen=True)
class VerifyTask:
    """Everything one verifier decides."""

    part: int
    collected: tuple[Path, ...]
    jaccard: float
    bucket_limit: int
    exchange: Path


def collect_shard(task: CollectTask) -> Result:
    """Write the shingle sets of one shard's candidates, and a table of what ranks them, both in order of verifiers."""
    candidates = shard_candidates(task.exchange, task.first, task.documents)
    rows = candidates["document"] - task.first
    gone = {row["id"] for row in read_rows(task.removed, ("id",))} if task.removed else set[str]()
    settings, lower = task.shard.settings, lower_table()
    tables: list[pa.RecordBatch] = []
    sets: list[NDArray[np.uint64]] = []
    start = 0
    values = np.empty(0, np.uint64)
    for batch in read_batches(task.shard.shard, task.shard.columns):
        chosen = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + batch.num_rows)] - start
        start += batch.num_rows
        if not len(chosen):
            continue
        batch = batch.take(number_column(chosen))
        buffers = text_buffers(batch.column("text"))
        if len(values) <= len(buffers.data):
            # kept from batch to batch: memory that is new each time costs as much as what is done with it
            values = np.empty(len(buffers.data) + 1, np.uint64)
        folds_D2 = np.empty((len(chosen), 2), np.uint64)
        sizes = shingle_sets(*buffers, lower, settings.shingle_words, settings.shingle_characters, folds_D2, values)
        sets.append(values[: sizes.sum()].copy())
        tables.append(_describe(batch, sizes, folds_D2, known=task.known, gone=gone))
    task.shard.folder.mkdir(parents=True, exist_ok=True)
    if tables:
        described = pa.Table.from_batches(tables).append_column("document", number_column(candidates["document"]))
        _write_parts(task, described, np.concatenate(sets), candidates["part"])
    return {"candidates": len(rows)}


def _write_parts(task: CollectTask, described: pa.Table, sets: NDArray[np.uint64], parts: NDArray[np.int32]) -> None:
    """Write candidates as one batch for each verifier, their sets in the same order, and where those of each start."""
    order = np.argsort(parts, kind="stable")
    bounds = np.searchsorted(parts[order], np.arange(task.parts + 1))
    ordered = described.take(number_column(order)).combine_chunks()
    sets, starts = _reorder_sets(sets, numbers(described["size"]), order)
    write_array(task.shard.folder / "sets.npy", sets)
    write_array(task.shard.folder / "set-starts.npy", starts[bounds])
    with (
        pa.OSFile(str(task.shard.folder / "collected.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, ordered.schema) as writer,
    ):
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            batches = ordered.slice(low, high - low).to_batches()
            writer.write_batch(batches[0] if batches else pa.RecordBatch.from_pylist([], schema=ordered.schema))


def verify_part(task: VerifyTask) -> Result:
    """Write the removals of one verifier with their evidence; return its counts."""
    table, starts, sets, documents = _load_part(task)
    frozen = numbers(table["state"]) == KEPT
    folds_D2 = np.stack([numbers(table["fold_0"]), numbers(table["fold_1"])], axis=1)
    pointers, buckets, capacities = _load_buckets(task, documents)
    owners, scores, exact, counts = remove_greedily(
        starts, sets, folds_D2, frozen, pointers, buckets, capacities, task.jaccard
    )
    removed = np.flatnonzero(owners >= 0)
    ids = table["id"]
    reasons = string_column(["near_duplicate", "exact_duplicate"])
    evidence = pa.table(
        {
            "id": ids.take(number_column(removed)),
            "kept_id": ids.take(number_column(owners[removed])),
            "reason": reasons.take(number_column(exact[removed].astype(np.int64))),
            "source": table["source"].take(number_column(removed)),
            "score": number_column(scores[removed]),
        },
    ).cast(EVIDENCE_SCHEMA)
    path = task.exchange / f"removed-{task.part:04d}.parquet"
    temporary = path.with_name(f".{path.name}.part")
    pq.write_table(evidence, temporary)
    temporary.replace(path)
    group = int(np.bincount(owners[removed]).max(initial=0)) + 1 if len(removed) else 0
    return {"verified": int(counts[0]), "skipped": int(counts[1]), "removed": len(removed), "largest_group": group}


@njit(cache=True, nogil=True)
def verified_jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64], threshold: float) -> float:
    """Return the Jaccard similarity of two sorted sets when it reaches the threshold, else 0."""
    needed = int(np.ceil(threshold / (1 + threshold) * (len(first) + len(second)) - 1e-6))
    left = right = shared = 0
    while left < len(first) and right < len(second):
        if first[left] == second[right]:
            shared += 1
            left += 1
            right += 1
        elif first[left] < second[right]:
            left += 1
            if shared + len(first) - left < needed:
                return 0.0
        else:
            right += 1
            if shared + len(second) - right < needed:
                return 0.0
    return shared / (len(first) + len(second) - shared)


@njit(cache=True, nogil=True)
def remove_greedily(
    starts: NDArray[np.int64],
    sets: NDArray[np.uint64],
    folds_D2: NDArray[np.uint64],
    frozen: NDArray[np.bool_],
    pointers: NDArray[np.int64],
    buckets: NDArray[np.int64],
    capacities: NDArray[np.int64],
    threshold: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Go through documents, best first, and remove each that verifies against one that is kept.

    Document d lies in `buckets[pointers[d]:pointers[d+1]]`; a bucket compares its first `capacities` kept documents.
    Returns who each was removed for (-1: kept), the similarity, whether it is an exact copy, and the numbers of
    comparisons made and of kept documents that found a full bucket.
    """
    documents = len(starts) - 1
    first_member = np.zeros(len(capacities) + 1, np.int64)
    first_member[1:] = np.cumsum(capacities)
    members = np.empty(first_member[-1], np.int64)
    filled = np.zeros(len(capacities), np.int64)
    seen = np.full(documents, -1, np.int64)
    owners = np.full(documents, -1, np.int64)
    scores = np.zeros(documents)
    exact = np.zeros(documents, np.bool_)
    counts = np.zeros(2, np.int64)
    for document in range(documents):
        mine = sets[starts[document] : starts[document + 1]]
        best, owner = 0.0, -1
        for at in range(pointers[document], pointers[document + 1] if not frozen[document] else pointers[document]):
            bucket = buckets[at]
            for place in range(first_member[bucket], first_member[bucket] + filled[bucket]):
                other = members[place]
                if seen[other] == document:
                    continue
                seen[other] = document
                if folds_D2[other, 0] == folds_D2[document, 0] and folds_D2[other, 1] == folds_D2[document, 1]:
                    score = 2.0
                else:
                    size = starts[other + 1] - starts[other]
                    small, large = min(size, len(mine)), max(size, len(mine))
                    if small == 0 or small < threshold * large - 1e-6:
                        continue
                    counts[0] += 1
                    score = verified_jaccard(mine, sets[starts[other] : starts[other + 1]], threshold)
                if score > best or (score == best and score > 0 and other < owner):
                    best, owner = score, other
        if owner >= 0 and best >= threshold:
            owners[document] = owner
            scores[document] = min(best, 1.0)
            exact[document] = best > 1.0
            continue
        for at in range(pointers[document], pointers[document + 1]):
            bucket = buckets[at]
            if filled[bucket] < capacities[bucket]:
                members[first_member[bucket] + filled[bucket]] = document
                filled[bucket] += 1
            else:
                counts[1] += 1
    return owners, scores, exact, counts


def _describe(
    batch: pa.RecordBatch, sizes: NDArray[np.int64], folds_D2: NDArray[np.uint64], *, known: bool, gone: set[str]
) -> pa.RecordBatch:
    ids = batch.column("id")
    states = np.full(len(ids), KEPT if known else NEW, np.int8)
    if gone:
        states[[name in gone for name in ids.to_pylist()]] = GONE
    return pa.record_batch(
        {
            "id": ids,
            "source": batch.column("source"),
            "quality": batch.column("quality"),
            "length": pc.utf8_length(batch.column("text")).cast(pa.int64()),
            "size": number_column(sizes),
            "fold_0": number_column(folds_D2[:, 0]),
            "fold_1": number_column(folds_D2[:, 1]),
            "state": number_column(states),
        }
    )


def _load_part(task: VerifyTask) -> tuple[pa.Table, NDArray[np.int64], NDArray[np.uint64], NDArray[np.int64]]:
    """Return the candidates of a part in order of merit, where their sets start, the sets, and their numbers."""
    tables: list[pa.Table] = []
    pieces: list[NDArray[np.uint64]] = []
    for folder in task.collected:
        if not (folder / "collected.arrow").exists():
            continue
        with pa.OSFile(str(folder / "collected.arrow")) as source:
            table = pa.Table.from_batches([pa.ipc.open_file(source).get_batch(task.part)])
        low, high = np.load(folder / "set-starts.npy")[task.part : task.part + 2]
        sets = np.load(folder / "sets.npy", mmap_mode="r")[low:high]
        left = numbers(table["state"]) != GONE
        pieces.append(sets if left.all() else sets[np.repeat(left, numbers(table["size"]))])
        tables.append(table if left.all() else table.take(choose(left)))
    if not tables:
        return _EMPTY_PART.empty_table(), np.zeros(1, np.int64), np.empty(0, np.uint64), np.empty(0, np.int64)
    table = pa.concat_tables(tables)
    # what an earlier run kept comes first, then quality, length and id decide
    kept = number_column((numbers(table["state"]) == KEPT).astype(np.int8))
    keys = [("kept", "descending"), ("quality", "descending"), ("length", "descending"), ("id", "ascending")]
    order = numbers(pc.sort_indices(table.append_column("kept", kept), sort_keys=keys)).astype(np.int64)
    sets, starts = _reorder_sets(np.concatenate(pieces), numbers(table["size"]), order)
    table = table.take(number_column(order))
    return table, starts, sets, numbers(table["document"])


@njit(cache=True, nogil=True)
def _reorder_sets(
    sets: NDArray[np.uint64], sizes: NDArray[np.int64], order: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    ends = np.cumsum(sizes)
    result = np.empty(len(sets), np.uint64)
    starts = np.zeros(len(order) + 1, np.int64)
    for place in range(len(order)):
        size = sizes[order[place]]
        starts[place + 1] = starts[place] + size
        result[starts[place] : starts[place + 1]] = sets[ends[order[place]] - size : ends[order[place]]]
    return result, starts


def _load_buckets(
    task: VerifyTask, documents: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return for each document of a part where its buckets start, the buckets, and the capacity of each bucket."""
    by_number = np.argsort(documents)
    ordered = documents[by_number]
    lengths, members = load_part_buckets(task.exchange, task.part)
    places = np.minimum(np.searchsorted(ordered, members), max(0, len(ordered) - 1))
    # what an earlier run removed is in no part
    mine = ordered[places] == members if len(ordered) else np.zeros(len(members), bool)
    bucket = np.repeat(np.arange(len(lengths)), lengths)[mine]
    _, name, sizes = np.unique(bucket, return_inverse=True, return_counts=True)
    owner = by_number[places[mine]]
    pointers = np.zeros(len(documents) + 1, np.int64)
    pointers[1:] = np.cumsum(np.bincount(owner, minlength=len(documents)))
    return pointers, name[np.argsort(owner, kind="stable")], np.minimum(sizes, task.bucket_limit)
