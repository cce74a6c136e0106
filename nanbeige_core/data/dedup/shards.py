"""Documents as Arrow batches out of Parquet or JSONL shards, in bounded memory."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanbeige_core.data.tables import TableError

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

BATCH_ROWS = 2048


@dataclass(frozen=True)
class Columns:
    """Names of the columns that deduplication reads; an empty name means that there is none."""

    id: str = "id"
    text: str = "text"
    quality: str = ""
    source: str = ""

    def names(self) -> list[str]:
        """Return the columns that must exist."""
        return [name for name in (self.id, self.text, self.quality, self.source) if name]


class TextBuffers(NamedTuple):
    """A batch of texts as one UTF-8 buffer and D + 1 offsets into it."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]


def read_batches(shard: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield batches with the columns `id`, `text` (strings), `quality` (float64) and `source`, in file order.

    Raises TableError naming the file and what is wrong: unreadable, a column missing or of another type, no text.
    """
    batches = _parquet_batches(shard, columns) if shard.suffix == ".parquet" else _jsonl_batches(shard, columns)
    row = 0
    for batch in batches:
        yield _normalise(batch, shard, columns, row)
        row += batch.num_rows


def text_buffers(text: pa.Array) -> TextBuffers:
    """Return the UTF-8 buffer and offsets behind a column of large strings, without copying the text."""
    _, offsets, data = text.buffers()
    starts = np.frombuffer(offsets, np.int64, len(text) + 1, text.offset * 8)
    return TextBuffers(np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), starts)


def number_column(values: NDArray[Any]) -> pa.Array:
    """Return a NumPy array of numbers as an Arrow one, sharing memory.

    `pa.array` would do the same after importing pandas, which takes longer than to deduplicate a small corpus.
    """
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return an Arrow column of numbers without nulls as a NumPy array (without pandas, like `number_column`)."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    dtype = np.dtype(array.type.to_pandas_dtype())
    return np.frombuffer(array.buffers()[1] or b"", dtype, len(array), array.offset * dtype.itemsize)


def choose(values: NDArray[np.bool_]) -> pa.Array:
    """Return the positions of what is true as an Arrow index."""
    return number_column(np.flatnonzero(values))


def _parquet_batches(shard: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(shard) as parquet:
            missing = [name for name in columns.names() if name not in parquet.schema_arrow.names]
            if missing:
                raise TableError(
                    f"{shard}: column {missing[0]!r} is missing; the table has "
                    f"{', '.join(parquet.schema_arrow.names)}. Name the columns to read, or rebuild the table."
                )
            yield from parquet.iter_batches(BATCH_ROWS, columns=columns.names(), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise TableError(
            f"{shard}: not a readable Parquet file ({error}). It may be half written: rebuild it."
        ) from error


def _jsonl_batches(shard: Path, columns: Columns) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    try:
        with shard.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                rows.append(_json_row(shard, number, line, columns))
                if len(rows) == BATCH_ROWS:
                    yield pa.RecordBatch.from_pylist(rows)
                    rows = []
    except OSError as error:
        raise TableError(f"{shard}: cannot be read ({error}). Correct the path.") from error
    if rows:
        yield pa.RecordBatch.from_pylist(rows)


def _json_row(shard: Path, number: int, line: bytes, columns: Columns) -> dict[str, Any]:
    try:
        row = json.loads(line)
        return {name: row[name] for name in columns.names()}
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(
            f"{shard}: line {number} is not a JSON object with {', '.join(columns.names())} ({error!r}). "
            "Ingest the file first: it drops and counts such lines."
        ) from error


def _normalise(batch: pa.RecordBatch, shard: Path, columns: Columns, first: int) -> pa.RecordBatch:
    try:
        ids, text = (batch.column(name).cast(pa.large_string()) for name in (columns.id, columns.text))
        quality = batch.column(columns.quality).cast(pa.float64()) if columns.quality else _zeros(batch.num_rows)
        source = batch.column(columns.source).cast(pa.large_string()) if columns.source else _blanks(batch.num_rows)
    except pa.ArrowException as error:
        raise TableError(f"{shard}: rows from {first}: a column has the wrong type ({error}).") from error
    if ids.null_count or text.null_count:
        bad = first + int(pc.index(pc.or_(pc.is_null(ids), pc.is_null(text)), True).as_py())
        raise TableError(f"{shard}: row {bad} has no id or no text. Drop it with a reason before deduplication.")
    quality = pc.fill_null(quality, 0.0) if quality.null_count else quality
    source = pc.fill_null(source, "") if source.null_count else source
    return pa.record_batch([ids, text, quality, source], ["id", "text", "quality", "source"])


def string_column(values: list[str]) -> pa.Array:
    """Return strings as an Arrow array (without pandas, like `number_column`)."""
    encoded = [value.encode() for value in values]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(values), buffers)


def _zeros(count: int) -> pa.Array:
    return number_column(np.zeros(count))


def _blanks(count: int) -> pa.Array:
    buffers = [None, pa.py_buffer(np.zeros(count + 1, np.int64)), pa.py_buffer(b"")]
    return pa.Array.from_buffers(pa.large_string(), count, buffers)
