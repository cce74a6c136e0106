"""Paragraph-level exact deduplication: a long paragraph stays in the best document that holds it.

Two paragraphs are equal when their 128-bit digests are, white space apart. The keeper of a paragraph is the best of all
its documents by (quality, length, id), so what is cut depends on the documents alone, and a keeper, which loses neither
that paragraph nor itself, always exists. Keys are exchanged as files by range, like those of whole documents.
"""

import hashlib
import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanbeige_core.data.dedup.shards import Columns, number_column, numbers, read_batches
from nanbeige_core.data.dedup.signatures import write_array
from nanbeige_core.data.executors import Executor, LocalPool, Result, run_phase
from nanbeige_core.data.tables import read_table

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

BORDER = re.compile(r"(\n(?:[^\S\n]*\n)+)")
"""One blank line or more, which is what separates paragraphs."""

PARAGRAPHS_PER_RANGE = 5_000_000
"""Keys of so many paragraphs are sorted at a time."""

KEY = np.dtype(
    [("high", np.uint64), ("low", np.uint64), ("row", np.uint32), ("paragraph", np.uint32), ("characters", np.uint32)]
)
CUT = np.dtype([("document", np.int64), ("keeper", np.int64), ("paragraph", np.int32), ("characters", np.int32)])
CUT_SCHEMA = pa.schema(
    [("id", pa.string()), ("kept_id", pa.string()), ("paragraph", pa.int32()), ("characters", pa.int32())]
)


@dataclass(frozen=True)
class ParagraphTask:
    """One shard to read, and where the keys of its long paragraphs go."""

    shard: Path
    columns: Columns
    characters: int
    folder: Path


@dataclass(frozen=True)
class RangeTask:
    """One range of digests over the keys of every shard; `firsts` numbers each shard's first document."""

    folders: tuple[Path, ...]
    firsts: tuple[int, ...]
    ranks: Path
    number: int
    ranges: int
    result: Path


def find_repeated_paragraphs(
    shards: Sequence[Path],
    work: Path,
    *,
    characters: int,
    columns: Columns | None = None,
    executor: Executor | None = None,
) -> pa.Table:
    """Return the paragraphs to cut: columns id, kept_id, paragraph (its number in the text), characters; sorted.

    Paragraphs below `characters` are never cut. Finished work in `work` is reused. Raises TableError on a bad shard.
    """
    executor = executor or LocalPool()
    tasks = [
        ParagraphTask(shard.absolute(), columns or Columns(), characters, work / "paragraphs" / f"{number:05d}")
        for number, shard in enumerate(shards)
    ]
    signed = run_phase(executor, work / "sign-paragraphs", sign_paragraphs, tasks)
    folders = tuple(task.folder for task in tasks)
    firsts = np.cumsum([0, *(item["documents"] for item in signed)])
    documents = pa.concat_tables([read_table(folder / "documents.parquet") for folder in folders])
    write_array(work / "ranks.npy", _rank(documents))
    ranges = 1 + sum(item["paragraphs"] for item in signed) // PARAGRAPHS_PER_RANGE
    starts = tuple(int(first) for first in firsts[:-1])
    results = [work / f"cuts-{number:04d}.npy" for number in range(ranges)]
    search = [
        RangeTask(folders, starts, work / "ranks.npy", number, ranges, path) for number, path in enumerate(results)
    ]
    run_phase(executor, work / "find-repeats", find_repeats, search)
    cuts = np.concatenate([np.load(path) for path in results])
    table = pa.table(
        {
            "id": documents["id"].take(number_column(cuts["document"])),
            "kept_id": documents["id"].take(number_column(cuts["keeper"])),
            "paragraph": number_column(cuts["paragraph"]),
            "characters": number_column(cuts["characters"]),
        }
    ).cast(CUT_SCHEMA)
    return table.sort_by([("id", "ascending"), ("paragraph", "ascending")])


def split_paragraphs(text: str) -> list[str]:
    """Return paragraphs and the borders between them, in turn; joined they are the text."""
    return BORDER.split(text)


def long_paragraphs(text: str, characters: int) -> Iterator[tuple[int, str]]:
    """Yield (number, paragraph with white space normalised) of each paragraph of at least `characters`."""
    for number, part in enumerate(split_paragraphs(text)[::2]):
        if len(part) >= characters:
            paragraph = " ".join(part.split())
            if len(paragraph) >= characters:
                yield number, paragraph


def cut_paragraphs(text: str, numbers: set[int]) -> str:
    """Return the text without the paragraphs of these numbers, and without the border behind each."""
    parts = split_paragraphs(text)
    kept = [
        paragraph + (parts[2 * number + 1] if 2 * number + 1 < len(parts) else "")
        for number, paragraph in enumerate(parts[::2])
        if number not in numbers
    ]
    return "".join(kept).rstrip("\n") if numbers else text


def sign_paragraphs(task: ParagraphTask) -> Result:
    """Write the sorted keys of one shard's long paragraphs, and a table of what ranks its documents."""
    keys: list[tuple[int, int, int, int, int]] = []
    tables: list[pa.RecordBatch] = []
    row = 0
    for batch in read_batches(task.shard, task.columns):
        for text in batch.column("text").to_pylist():
            for number, paragraph in long_paragraphs(text, task.characters):
                digest = hashlib.blake2b(paragraph.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                high, low = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
                keys.append((high, low, row, number, len(paragraph)))
            row += 1
        lengths = pc.utf8_length(batch.column("text")).cast(pa.int64())
        columns = [batch.column("id"), batch.column("quality"), lengths]
        tables.append(pa.record_batch(columns, ["id", "quality", "length"]))
    task.folder.mkdir(parents=True, exist_ok=True)
    rows = np.array(keys, KEY)
    write_array(task.folder / "paragraphs.npy", rows[np.argsort(rows["high"], kind="stable")])
    schema = pa.schema([("id", pa.large_string()), ("quality", pa.float64()), ("length", pa.int64())])
    pq.write_table(pa.Table.from_batches(tables, schema), task.folder / "documents.parquet")
    return {"documents": row, "paragraphs": len(keys)}


def find_repeats(task: RangeTask) -> Result:
    """Write which paragraphs of one range of digests are cut, and which document keeps each."""
    low = task.number * (1 << 64) // task.ranges
    high = (task.number + 1) * (1 << 64) // task.ranges - 1
    pieces: list[NDArray[Any]] = []
    numbers: list[NDArray[np.int64]] = []
    for folder, first in zip(task.folders, task.firsts, strict=True):
        rows = np.load(folder / "paragraphs.npy", mmap_mode="r")
        start = np.searchsorted(rows["high"], np.uint64(low), "left")
        end = np.searchsorted(rows["high"], np.uint64(high), "right")
        pieces.append(np.array(rows[start:end]))
        numbers.append(pieces[-1]["row"].astype(np.int64) + first)
    keys, documents = np.concatenate(pieces), np.concatenate(numbers)
    ranks = np.load(task.ranks, mmap_mode="r")[documents]
    order = np.lexsort((keys["paragraph"], ranks, keys["low"], keys["high"]))
    keys, documents = keys[order], documents[order]
    new = np.ones(len(keys), bool)
    new[1:] = (keys["high"][1:] != keys["high"][:-1]) | (keys["low"][1:] != keys["low"][:-1])
    keepers = documents[np.flatnonzero(new)][np.cumsum(new) - 1] if len(keys) else documents
    cuts = np.empty(int((~new).sum()), CUT)
    cuts["document"], cuts["keeper"] = documents[~new], keepers[~new]
    cuts["paragraph"], cuts["characters"] = keys["paragraph"][~new], keys["characters"][~new]
    write_array(task.result, cuts)
    return {"repeats": len(cuts)}


def _rank(documents: pa.Table) -> NDArray[np.int64]:
    """Return the place of each document when the best comes first: quality, length, then id."""
    keys = [("quality", "descending"), ("length", "descending"), ("id", "ascending")]
    order = numbers(pc.sort_indices(documents, sort_keys=keys)).astype(np.int64)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
