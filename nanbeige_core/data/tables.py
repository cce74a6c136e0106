"""Streaming Parquet tables: write rows in bounded memory, read them with a schema check and clear errors."""

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

ROWS_PER_GROUP = 2048
"""Rows buffered before they are written; bounds memory."""


class TableError(ValueError):
    """A table is missing, unreadable, or lacks a column."""


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as one Parquet file, atomically (temporary name, then rename), and return their number.

    Raises TableError naming the file and the row when a row lacks a column, has one too many, or a wrong type.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    written = 0
    buffer: list[dict[str, Any]] = []
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for row in rows:
            buffer.append(row)
            if len(buffer) >= ROWS_PER_GROUP:
                writer.write_batch(_to_batch(buffer, schema, path, written))
                written += len(buffer)
                buffer = []
        if buffer:
            writer.write_batch(_to_batch(buffer, schema, path, written))
            written += len(buffer)
    os.replace(temporary, path)
    return written


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as one Parquet file, atomically; the file is the one that `write_rows` makes of its rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_PER_GROUP)
    os.replace(temporary, path)


def write_shards(folder: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], *, rows_per_file: int) -> int:
    """Write rows as `folder/00000.parquet`, `00001.parquet`, ... and return their number.

    At least one file is written, even without rows.
    """
    total = 0
    shard: list[dict[str, Any]] = []
    number = 0
    for row in rows:
        shard.append(row)
        if len(shard) >= rows_per_file:
            total += write_rows(folder / f"{number:05d}.parquet", schema, shard)
            number, shard = number + 1, []
    if shard or number == 0:
        total += write_rows(folder / f"{number:05d}.parquet", schema, shard)
    return total


def write_table_shards(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, rows_per_file: int) -> int:
    """Write tables end to end as the files that `write_shards` makes of their rows, and return the number of rows."""
    number = total = 0
    held = schema.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table.select(schema.names).cast(schema)])
        while held.num_rows >= rows_per_file:
            write_table(folder / f"{number:05d}.parquet", held.slice(0, rows_per_file).combine_chunks())
            number, total, held = number + 1, total + rows_per_file, held.slice(rows_per_file)
    if held.num_rows or number == 0:
        write_table(folder / f"{number:05d}.parquet", held.combine_chunks())
    return total + held.num_rows


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, or of every `*.parquet` of a directory in name order.

    `columns` are read alone and must exist. Raises TableError naming the file, and the column that is missing.
    """
    for file in table_files(path):
        with _open(file) as parquet:
            _require_columns(file, parquet.schema_arrow.names, columns or ())
            for batch in parquet.iter_batches(ROWS_PER_GROUP, columns=list(columns) if columns else None):
                yield from batch.to_pylist()


def read_batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a Parquet file, or of every `*.parquet` of a directory in name order, batch by batch.

    Raises TableError like `read_rows`.
    """
    for file in table_files(path):
        with _open(file) as parquet:
            _require_columns(file, parquet.schema_arrow.names, columns)
            yield from parquet.iter_batches(ROWS_PER_GROUP, columns=list(columns), use_threads=False)


def take_rows(path: Path, positions: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows at `positions`, counted over all files in name order, in the order asked for.

    The table is read once, batch by batch, and nothing else of it is kept.
    """
    wanted = np.asarray(positions, np.int64)
    order = np.argsort(wanted, kind="stable")
    ordered = wanted[order]
    found: list[dict[str, Any]] = []
    first = 0
    for batch in read_batches(path, columns):
        low, high = np.searchsorted(ordered, [first, first + batch.num_rows])
        if high > low:
            found += batch.take(pa.array((ordered[low:high] - first).tolist(), pa.int64())).to_pylist()
        first += batch.num_rows
    result: list[dict[str, Any]] = [{}] * len(wanted)
    for place, row in zip(order.tolist(), found, strict=True):
        result[place] = row
    return result


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file, or every `*.parquet` of a directory in name order, as one Arrow table."""
    files = table_files(path)
    tables: list[pa.Table] = []
    for file in files:
        with _open(file) as parquet:
            _require_columns(file, parquet.schema_arrow.names, columns or ())
            tables.append(parquet.read(columns=list(columns) if columns else None))
    return pa.concat_tables(tables)


def count_table_rows(file: Path) -> int:
    """Return how many rows a Parquet file has, by its footer; raises TableError naming a file that is not readable."""
    with _open(file) as parquet:
        return parquet.metadata.num_rows


def count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value of a column occurs, in the order in which they first do."""
    return {found["values"]: found["counts"] for found in pc.value_counts(column).to_pylist()}


def table_files(path: Path) -> list[Path]:
    """Return the Parquet files behind a path; raise TableError when there is none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.exists() for file in files):
        raise TableError(f"{path}: no Parquet table here. Run the stage that writes it, or correct the path.")
    return files


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{file}: not a readable Parquet file ({error}). Rebuild the stage that wrote it.") from error


def _require_columns(file: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise TableError(
            f"{file}: column {missing[0]!r} is missing; the table has {', '.join(found)}. "
            "It was written by another stage or version: rebuild it, or rename the column."
        )


def _to_batch(rows: list[dict[str, Any]], schema: pa.Schema, path: Path, first: int) -> pa.RecordBatch:
    names = schema.names
    for offset, row in enumerate(rows):
        if set(row) != set(names):
            wrong = sorted(set(row) ^ set(names))
            raise TableError(
                f"{path}: row {first + offset} has columns {sorted(row)}, expected {sorted(names)}; "
                f"differing: {', '.join(wrong)}."
            )
    try:
        return pa.RecordBatch.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TableError(_name_bad_cell(rows, schema, path, first, error)) from error


def _name_bad_cell(rows: list[dict[str, Any]], schema: pa.Schema, path: Path, first: int, error: Exception) -> str:
    for offset, row in enumerate(rows):
        for field in schema:
            try:
                pa.array([row[field.name]], type=field.type)
            except (pa.ArrowException, TypeError, ValueError):
                return (
                    f"{path}: row {first + offset}, column {field.name!r} holds {row[field.name]!r:.80}, "
                    f"expected {field.type}."
                )
    return f"{path}: rows {first} to {first + len(rows) - 1} do not fit the schema: {error}."
