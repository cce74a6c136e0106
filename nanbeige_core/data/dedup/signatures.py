"""First pass: the keys under which a document can meet its twins, one file per shard, nothing else kept in memory."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.data.dedup.kernels import (
    count_shingles,
    hash_bytes,
    prefix_keys,
    shingle_sets,
    sign_batch,
)
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.shards import Columns, read_batches, text_buffers
from nanbeige_core.data.dedup.units import lower_table
from nanbeige_core.data.executors import Result

KEYS, OWNERS = "keys.npy", "owners.npy"
"""The keys of a shard in order, and the document of each, which counts inside the shard."""


class SignatureError(ValueError):
    """Stored signatures do not belong to these settings or to this text."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to read, and where what is computed from it goes."""

    shard: Path
    columns: Columns
    settings: DedupSettings
    folder: Path
    frequencies: Path | None = None
    """Counts of all shingles of the corpus (exact mode)."""
    slots: int = 0
    """Size of the table of counts, a power of two (exact mode)."""


def sign_shard(task: ShardTask) -> Result:
    """Write the sorted keys and the id hashes of one shard; return its counts by source.

    Keys are one per LSH band, or the shingles of the prefix in exact mode, and one of the whole text.
    """
    keys: list[NDArray[np.uint64]] = []
    owners: list[NDArray[np.uint32]] = []
    ids: list[NDArray[np.uint64]] = []
    sources: dict[str, int] = {}
    frequencies = np.load(task.frequencies, mmap_mode="r") if task.frequencies else None
    first = 0
    for batch in read_batches(task.shard, task.columns):
        batch_keys, batch_owners = _batch_keys(batch, first, task.settings, frequencies)
        keys.append(batch_keys)
        owners.append(batch_owners)
        ids.append(hash_bytes(*text_buffers(batch.column("id"))))
        for found in batch.column("source").value_counts().to_pylist():
            sources[found["values"]] = sources.get(found["values"], 0) + found["counts"]
        first += batch.num_rows
    task.folder.mkdir(parents=True, exist_ok=True)
    key = np.concatenate([np.empty(0, np.uint64), *keys])
    # equal keys come in any order, which decides nothing
    order = np.argsort(key)
    write_array(task.folder / KEYS, key[order])
    write_array(task.folder / OWNERS, np.concatenate([np.empty(0, np.uint32), *owners])[order])
    write_array(task.folder / "ids.npy", np.concatenate(ids) if ids else np.empty(0, np.uint64))
    identity = {"settings": task.settings.signature_identity(), "shard": str(task.shard), "documents": first}
    identity["bytes"] = task.shard.stat().st_size
    write_text(task.folder / "identity.json", json.dumps(identity))
    return {"documents": first, "sources": sources}


def count_shard(task: ShardTask) -> Result:
    """Write the shingle counts of one shard (exact mode)."""
    table = np.zeros(task.slots, np.uint8)
    lower, settings = lower_table(), task.settings
    for batch in read_batches(task.shard, task.columns):
        buffers = text_buffers(batch.column("text"))
        count_shingles(*buffers, lower, settings.shingle_words, settings.shingle_characters, table)
    task.folder.mkdir(parents=True, exist_ok=True)
    write_array(task.folder / "frequencies.npy", table)
    return {}


def verify_signatures(task: ShardTask) -> None:
    """Raise SignatureError when stored signatures are missing, or of other settings or another file."""
    path = task.folder / "identity.json"
    if not path.exists():
        raise SignatureError(f"{task.folder}: no signatures here. Deduplicate {task.shard} first.")
    stored = json.loads(path.read_text())
    if stored["settings"] != task.settings.signature_identity():
        raise SignatureError(
            f"{task.folder}: signatures were made with {stored['settings']}, this run has "
            f"{task.settings.signature_identity()}: their keys cannot meet. Use the same settings or sign again."
        )
    if not task.shard.exists() or task.shard.stat().st_size != stored["bytes"]:
        raise SignatureError(
            f"{task.shard}: not the file whose signatures are stored in {task.folder}; its text is needed to verify "
            "candidates. Restore the file or deduplicate it again."
        )


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as stream:
        np.save(stream, values)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(text)
    os.replace(temporary, path)


def _batch_keys(
    batch: pa.RecordBatch, first: int, settings: DedupSettings, frequencies: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    data, offsets = text_buffers(batch.column("text"))
    documents = batch.num_rows
    rows = np.arange(first, first + documents, dtype=np.uint32)
    if frequencies is None:
        keys_DB = np.empty((documents, settings.bands), np.uint64)
        folds = np.empty(documents, np.uint64)
        counts = sign_batch(
            data, offsets, lower_table(), settings.shingle_words, settings.shingle_characters,
            settings.bands, settings.rows_per_band, settings.seed, keys_DB, folds,
        )  # fmt: skip
        signed = counts > 0
        keys, owners = keys_DB[signed].ravel(), np.repeat(rows[signed], settings.bands)
    else:
        sets = np.empty(int(offsets[-1] - offsets[0]) + 1, np.uint64)
        folds_D2 = np.empty((documents, 2), np.uint64)
        sizes = shingle_sets(
            data, offsets, lower_table(), settings.shingle_words, settings.shingle_characters, folds_D2, sets
        )
        keys = np.empty(int(sizes.sum()), np.uint64)
        counts = prefix_keys(sets, sizes, frequencies, settings.jaccard, keys)
        keys, owners, folds = keys[: counts.sum()], np.repeat(rows, counts), folds_D2[:, 0]
    return np.concatenate([keys, folds]), np.concatenate([owners, rows])
