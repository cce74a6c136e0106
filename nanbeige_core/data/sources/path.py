"""A user's own corpus: JSONL, Parquet, or a `datasets` folder on disk, streamed row by row."""

import glob
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

LONGEST_LINE = 64 << 20
"""Bytes of a line of JSONL; no document is as long, and a file without line breaks would fill the memory."""

SURROGATE = re.compile(r"[\ud800-\udfff]")


class PathRow(NamedTuple):
    """One row of a user's table; `text` is None where it cannot be read, with `problem` saying why."""

    key: str
    text: str | None
    problem: str = ""


class SourceError(ValueError):
    """A user's corpus cannot be read at all."""


def expand_paths(pattern: str) -> list[Path]:
    """Return the files behind a path, a directory, or a glob, in name order; raises SourceError for none."""
    root = Path(pattern)
    if root.is_dir():
        files = [p for p in sorted(root.rglob("*")) if p.name.endswith((".jsonl", ".jsonl.gz", ".parquet", ".arrow"))]
    else:
        files = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    if not files:
        raise SourceError(
            f"{pattern}: no .jsonl, .jsonl.gz, .parquet or .arrow file here. "
            "Correct `path` of this source in pipelines.yaml (relative paths start at the working directory)."
        )
    return files


def read_path(file: Path, text_field: str) -> Iterator[PathRow]:
    """Yield the rows of one file; raises SourceError naming the file when it is not what its name says."""
    if file.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _read_jsonl(file, text_field)
    elif file.suffix == ".parquet":
        yield from _read_parquet(file, text_field)
    elif file.suffix == ".arrow":
        yield from _read_arrow(file, text_field)
    else:
        raise SourceError(f"{file}: unknown kind of file; expected .jsonl, .jsonl.gz, .parquet or .arrow.")


def _read_jsonl(file: Path, text_field: str) -> Iterator[PathRow]:
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rb") as stream:
            for number, line in enumerate(_read_lines(cast(BinaryIO, stream)), start=1):
                if line is None:
                    yield PathRow(f"{file.name}:{number}", None, "gigantic")
                else:
                    yield _json_row(file, number, line, text_field)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"{file}: cannot be read ({error}). It may be cut off: write it again, or leave it out of `path`."
        ) from error


def _read_lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Yield the lines of a file, None for one beyond `LONGEST_LINE`, of which no more than a piece is ever held."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass
        yield None


def refuse_half_written(files: Iterable[Path]) -> None:
    """Raise SourceError for the first Parquet file without a readable end, before any work is spent on the others."""
    for file in files:
        if file.suffix == ".parquet":
            try:
                pq.read_metadata(file)
            except (pa.ArrowException, OSError) as error:
                raise SourceError(
                    f"{file}: not a readable Parquet file ({error}). It may be half written: write it again, or "
                    "leave it out of `path`."
                ) from error


def _json_row(file: Path, number: int, line: bytes, text_field: str) -> PathRow:
    key = f"{file.name}:{number}"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return PathRow(key, None, "broken_utf8")
    except (ValueError, RecursionError):  # also a number of too many digits, and brackets nested too deeply
        return PathRow(key, None, "broken_json")
    if not isinstance(row, dict) or text_field not in row:
        if number > 1:
            return PathRow(key, None, "no_text_field")
        raise SourceError(
            f"{file}: line {number} has no field {text_field!r}; it has "
            f"{sorted(row) if isinstance(row, dict) else row!r}. Set `text_field` of this source."
        )
    text = row[text_field]
    if not isinstance(text, str):
        return PathRow(key, None, "not_text")
    # JSON can escape half of a surrogate pair, which no UTF-8 file can hold
    return PathRow(key, None, "broken_utf8") if SURROGATE.search(text) else PathRow(key, text)


def _read_parquet(file: Path, text_field: str) -> Iterator[PathRow]:
    try:
        with pq.ParquetFile(file) as parquet:
            _require_field(file, parquet.schema_arrow, text_field)
            number = 0
            for batch in parquet.iter_batches(_rows_at_once(parquet), columns=[text_field], use_threads=False):
                yield from _column_rows(file, number, batch.column(0))
                number += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # damaged pages show only when rows are read
        raise SourceError(
            f"{file}: not a readable Parquet file ({error}). It may be damaged: write it again, or leave it out of "
            "`path`."
        ) from error


def _rows_at_once(parquet: pq.ParquetFile) -> int:
    """Return how many rows may be decoded together: fewer of long texts."""
    groups = (parquet.metadata.row_group(number) for number in range(parquet.num_row_groups))
    longest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    return int(min(1024, max(1, LONGEST_LINE / max(1.0, longest))))


def _read_arrow(file: Path, text_field: str) -> Iterator[PathRow]:
    try:
        with pa.memory_map(str(file)) as stream:
            reader = pa.ipc.open_stream(stream)
            _require_field(file, reader.schema, text_field)
            number = 0
            for batch in reader:
                batch.validate(full=True)  # a stream's offsets are used as they come: wrong ones end the process
                yield from _column_rows(file, number, batch.column(text_field))
                number += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(
            f"{file}: not a readable Arrow stream ({error}). It may be damaged: write it again, or leave it out of "
            "`path`."
        ) from error


def _column_rows(file: Path, first: int, column: pa.Array) -> Iterator[PathRow]:
    """Yield the rows of one column; Arrow does not check the UTF-8 of a file, so each value is decoded here."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    for number, raw in enumerate(column.cast(pa.large_binary()).to_pylist(), start=first):
        key = f"{file.name}:{number}"
        try:
            yield PathRow(key, None, "empty") if raw is None else PathRow(key, raw.decode("utf-8"))
        except UnicodeDecodeError:
            yield PathRow(key, None, "broken_utf8")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary))


def _require_field(file: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise SourceError(
            f"{file}: column {text_field!r} is missing; it has {', '.join(schema.names)}. "
            "Set `text_field` of this source."
        )
    kind = schema.field(text_field).type
    if not _is_text(kind):
        texts = [field.name for field in schema if _is_text(field.type)]
        raise SourceError(
            f"{file}: column {text_field!r} holds {kind}, expected text. "
            + (
                f"Set `text_field` of this source to another column: {', '.join(texts)}."
                if texts
                else "No column of it holds text: write the documents as strings."
            )
        )
