"""How a document table is made of an artifact's files: fragments by any executor, committed once, then the indexes.

A task reads some neighbouring files batch by batch and leaves one fragment; nothing else of the documents is held. The
fragments are committed in the order of the files, so rows do not depend on who wrote them, and BM25 counts the whole
table whatever the fragments are. A table is made aside and renamed when it is whole.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock

from nanbeige_core.cores import usable_cores
from nanbeige_core.data.document_table import (
    COLUMNS,
    DATASET,
    EMBEDDING,
    FILTERED,
    FREQUENCIES,
    LAYOUT,
    SUMMARY,
    DocumentTable,
    DocumentTableError,
    Embed,
    load_embedder,
)
from nanbeige_core.data.executors import Executor, ExecutorError, Result, run_phase
from nanbeige_core.data.latent import fit_latent_space
from nanbeige_core.data.pool import Pool
from nanbeige_core.data.tables import TableError, count_table_rows, read_batches, table_files
from nanbeige_core.data.terms import LEXICAL_BUCKETS, count_terms, spell_documents

# Shapes: D documents, F features, V vector size.

INDEX_MEMORY_MB = 512
"""What the full-text index may hold while it is built before it begins a further part; BM25 counts over all parts.
Building took 155 MB at 200,000 documents and 390 at 800,000. Lance's own limit is 2 GiB a core (lance #5502: none)."""

TEXT_INDEX: dict[str, Any] = {
    "base_tokenizer": "whitespace",
    "lower_case": False,
    "stem": False,
    "remove_stop_words": False,
    "ascii_folding": False,
    "max_token_length": None,
    "with_position": False,
    "block_size": 128,
}
"""The terms are spelled already and two may differ in case alone. Blocks of 256 would round document lengths."""


_DISK_FULL = re.compile(r"os error (28|122)\b|No space left|Disk quota exceeded|\d+ requested and \d+ written")
"""What Lance says, which hands the system's error on as words, and NumPy of a file that it could not finish."""


@dataclass(frozen=True)
class TableSettings:
    """How a table is built."""

    vector_size: int = 64
    """Dimensions of the latent space, without an embedding (our choice)."""

    ann_from: int = 500_000
    """Documents from which vectors get an approximate index. A scan takes 35 CPU-ms at 200,000 vectors of 64 and grows
    with them, so up to here an answer comes within a tenth of a second, exact, without the 53 CPU-s that the index of
    200,000 takes; it answers in 13 CPU-ms with recall@10 0.998 (our choice, benchmarks/retrieval.py --ann)."""

    fragment_rows: int = 50_000
    """Documents from which on a task takes no further file; fewer would open more files for each query (our choice)."""


@dataclass(frozen=True)
class Fragment:
    """A task: these files as one fragment of the table in `table`."""

    files: tuple[Path, ...]
    table: Path
    counts: Path


@dataclass(frozen=True)
class Space:
    """A task: the vector space of the table in `table`, from an artifact or fitted on a sample of the corpus."""

    files: tuple[Path, ...]
    embedding: Path | None
    vector_size: int
    table: Path


@dataclass(frozen=True)
class Indexes:
    """A task: commit the fragments of a table in `table` and index them."""

    table: Path
    fragments: tuple[Path, ...]
    counts: tuple[Path, ...]
    approximate: bool


def open_or_build(
    corpus: Path,
    folder: Path,
    *,
    embedding: Path | None,
    executor: Executor,
    settings: TableSettings | None = None,
    announce: Callable[[int], None] = lambda documents: None,
) -> DocumentTable:
    """Open the table in `folder`, or make it of the corpus when it is missing, damaged or of another layout.

    Only one process builds, others wait for it; `announce` is told the number of documents before. What a build left
    that was killed is gone on with. Raises DocumentTableError.
    """
    with suppress(DocumentTableError):
        return DocumentTable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        with suppress(DocumentTableError):
            return DocumentTable(folder)
        work = folder.with_name(f".{folder.name}.part")
        if not (work / "table").exists():
            shutil.rmtree(work, ignore_errors=True)
        announce(sum(map(count_table_rows, table_files(corpus))))
        try:
            with _explained(work):
                built = build_table(corpus, work, embedding=embedding, executor=executor, settings=settings)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(built, folder)
            table = DocumentTable(folder)
        except DocumentTableError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)
        return table


def build_table(
    corpus: Path,
    work: Path,
    *,
    embedding: Path | None,
    executor: Executor,
    settings: TableSettings | None = None,
) -> Path:
    """Make the table of a corpus, a Parquet file or a folder of them, and return its folder, `work/table`.

    `work` is empty, or that of the same build to go on with; ranks of an array share it. `embedding` is the folder of
    an embedding artifact; without one the space is fitted on a sample of the corpus itself. Raises
    DocumentTableError when there are no documents or no room, TableError when the corpus cannot be read.
    """
    settings = settings or TableSettings()
    files = table_files(corpus)
    sizes = [count_table_rows(file) for file in files]
    if not sum(sizes):
        raise DocumentTableError(f"{corpus}: no documents, so there is nothing to query. Run the stage that curates.")
    table = work / "table"
    table.mkdir(parents=True, exist_ok=True)
    space = Space(tuple(files), embedding, settings.vector_size, table)
    run_phase(executor, work / "space", make_space, [space])
    groups = group_files(files, sizes, settings.fragment_rows)
    results, counts = (
        tuple(work / "fragments" / f"{number:05d}{suffix}" for number in range(len(groups)))
        for suffix in (".json", ".npy")
    )
    fragments = [Fragment(group, table, place) for group, place in zip(groups, counts, strict=True)]
    run_phase(executor, work / "fragments", write_fragment, fragments)
    indexes = Indexes(table, results, counts, sum(sizes) >= settings.ann_from)
    run_phase(executor, work / "indexes", make_indexes, [indexes])
    return table


def group_files(files: Sequence[Path], sizes: Sequence[int], rows: int) -> list[tuple[Path, ...]]:
    """Return neighbouring files together until they have so many rows; files without rows go with their neighbours."""
    groups: list[tuple[Path, ...]] = []
    group: list[Path] = []
    held = 0
    for file, size in zip(files, sizes, strict=True):
        group.append(file)
        held += size
        if held >= rows:
            groups.append(tuple(group))
            group, held = [], 0
    if held:
        groups.append(tuple(group))
    return groups


def make_space(task: Space) -> Result:
    """Leave the embedding of a table in its folder."""
    target = task.table / EMBEDDING
    with _explained(task.table):
        if task.embedding:
            shutil.copyfile(task.embedding / EMBEDDING, target)
        else:
            parts = Pool(task.files).parts()
            fit_latent_space(parts, task.vector_size, seed=0).save(target)
    return {}


def write_fragment(task: Fragment) -> Result:
    """Write one fragment; return its description for the commit, what its columns hold, and where its counts are."""
    from lance.fragment import write_fragments

    passing = _Passing(task.files, load_embedder(task.table / EMBEDDING))
    reader = pa.RecordBatchReader.from_batches(passing.schema, passing.batches())
    path = str(task.table / DATASET)
    with _explained(task.table):
        try:
            written = write_fragments(reader, path, passing.schema, mode="create")
        except Exception:
            if passing.failure:  # what the corpus raised comes back from Lance as words
                raise passing.failure from None
            raise
        np.save(task.counts, passing.frequencies_F.astype(np.int32))
    return {
        "fragments": [fragment.to_json() for fragment in written],
        "values": {name: sorted(found) for name, found in passing.values.items()},
        "lowest": passing.lowest,
    }


def make_indexes(task: Indexes) -> Result:
    """Commit the fragments in order, build the indexes, and leave the summary that makes the table a whole one."""
    import lance
    from lance.fragment import FragmentMetadata

    parts: list[Result] = [json.loads(path.read_text()) for path in task.fragments]
    fragments = [FragmentMetadata.from_json(json.dumps(one)) for part in parts for one in part["fragments"]]
    path = str(task.table / DATASET)
    with _explained(task.table):
        _clear(task.table / DATASET, {file.path for fragment in fragments for file in fragment.files})
        schema = _schema(load_embedder(task.table / EMBEDDING)([""]).shape[1])
        dataset = lance.LanceDataset.commit(path, lance.LanceOperation.Overwrite(schema, fragments))
        limits = {"memory_limit": INDEX_MEMORY_MB, "num_workers": usable_cores()}
        dataset.create_scalar_index("terms", "INVERTED", **limits, **TEXT_INDEX)
        for name in FILTERED:
            dataset.create_scalar_index(name, "BITMAP")
        dataset.create_scalar_index("tag_score", "BTREE")
        if task.approximate:
            dataset.create_index("vector", "IVF_HNSW_SQ", metric="dot", num_partitions=1)
        frequencies_F = np.sum([np.load(counts) for counts in task.counts], axis=0)
        np.save(task.table / FREQUENCIES, frequencies_F.astype(np.int32))
        _summarise(task, parts)
    return {}


class _Passing:
    """The documents of some files on their way into a fragment, and what they hold, counted as they pass."""

    def __init__(self, files: Sequence[Path], embed: Embed) -> None:
        self.files = files
        self.embed = embed
        self.schema = _schema(embed([""]).shape[1])
        self.frequencies_F = np.zeros(LEXICAL_BUCKETS, np.int64)
        self.values: dict[str, set[str]] = {name: set() for name in FILTERED}
        self.lowest: float | None = float("inf")
        self.failure: Exception | None = None

    def batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for file in self.files:
                for batch in read_batches(file, COLUMNS):
                    yield self._extend(batch)
        except Exception as error:
            self.failure = error
            raise

    def _extend(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        texts: list[str] = batch["text"].to_pylist()
        counts = count_terms(texts, dense=False, spelled=True)
        self.frequencies_F += np.bincount(counts.indices, minlength=LEXICAL_BUCKETS)
        for name, found in self.values.items():
            found.update(value for value in batch[name].unique().to_pylist() if value is not None)
        scores: list[float | None] = batch["tag_score"].to_pylist()
        known = [score for score in scores if score is not None and score == score]
        self.lowest = None if self.lowest is None or len(known) < len(scores) else min([self.lowest, *known])
        vectors_DV = self.embed(texts)
        flat = pa.array(vectors_DV.astype(np.float32, copy=False).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, vectors_DV.shape[1])
        columns = [batch[name].cast(self.schema.field(name).type) for name in COLUMNS]
        return pa.RecordBatch.from_arrays([*columns, spell_documents(counts), vectors], schema=self.schema)


def _schema(vector_size: int) -> pa.Schema:
    packed = {"lance-encoding:compression": "zstd"}
    return pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("text", pa.string(), metadata=packed),
            *(pa.field(name, pa.string()) for name in FILTERED),
            pa.field("tag_score", pa.float64()),
            pa.field("terms", pa.string(), metadata=packed),
            pa.field("vector", pa.list_(pa.float32(), vector_size)),
        ]
    )


def _clear(dataset: Path, data: set[str]) -> None:
    """Remove what tasks left that were killed: a commit, indexes, and data files of no fragment."""
    for entry in dataset.iterdir():
        if entry.name != "data":
            shutil.rmtree(entry)
    for file in (dataset / "data").iterdir():
        if file.name not in data:
            file.unlink()


def _summarise(task: Indexes, parts: Sequence[Result]) -> None:
    """Write what opening a table needs; it lists every file with its size, and itself comes last."""
    table = task.table
    lowest = [part["lowest"] for part in parts]
    files = sorted(path for path in table.rglob("*") if path.is_file() and path.name != SUMMARY)
    summary = {
        "layout": LAYOUT,
        "approximate": task.approximate,
        "values": {name: sorted({value for part in parts for value in part["values"][name]}) for name in FILTERED},
        "lowest_score": None if None in lowest else min(lowest),
        "files": {path.relative_to(table).as_posix(): path.stat().st_size for path in files},
    }
    (table / SUMMARY).write_text(json.dumps(summary, ensure_ascii=False), encoding="utf-8")


@contextmanager
def _explained(table: Path) -> Generator[None]:
    """Turn what Lance and the disk raise into an error that says what to do."""
    try:
        yield
    except (DocumentTableError, TableError, ExecutorError):
        raise
    except (OSError, ValueError, RuntimeError, pa.ArrowException) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or _DISK_FULL.search(str(error)):
            raise DocumentTableError(
                f"{table}: the disk is full, so the document table cannot be built ({error}). Free space, or give "
                "--store a disk with room; the artifact itself is whole."
            ) from error
        raise DocumentTableError(f"{table}: the document table cannot be built ({error}).") from error
