"""A user's own corpus: JSONL, Parquet, or a `datasets` folder on disk, streamed row by row."""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


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
            for number, line in enumerate(stream, start=1):
                yield _json_row(file, number, line, text_field)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{file}: cannot be read ({error}).") from error


def _json_row(file: Path, number: int, line: bytes, text_field: str) -> PathRow:
    key = f"{file.name}:{number}"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        return PathRow(key, None, "broken_utf8")
    except (ValueError, RecursionError):  # also a number of too many digits, and brackets nested too deeply
        return PathRow(key, None, "broken_json")
    if not isinstance(row, dict) or text_field not in row:
        raise SourceError(
            f"{file}: line {number} has no field {text_field!r}; it has "
            f"{sorted(row) if isinstance(row, dict) else row!r}. Set `text_field` of this source."
        )
    text = row[text_field]
    if not isinstance(text, str):
        return PathRow(key, None, "not_text")
    # an escaped half of a surrogate pair is JSON, and no text that can be written
    return PathRow(key, text) if _is_text(text) else PathRow(key, None, "broken_utf8")


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _read_parquet(file: Path, text_field: str) -> Iterator[PathRow]:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: not a readable Parquet file ({error}).") from error
    with parquet:
        _require_field(file, parquet.schema_arrow, text_field)
        number = 0
        for batch in parquet.iter_batches(1024, columns=[text_field]):
            for value in batch.column(0).to_pylist():
                yield PathRow(f"{file.name}:{number}", value, "" if value is not None else "empty")
                number += 1


def _read_arrow(file: Path, text_field: str) -> Iterator[PathRow]:
    try:
        with pa.memory_map(str(file)) as stream:
            reader = pa.ipc.open_stream(stream)
            _require_field(file, reader.schema, text_field)
            number = 0
            for batch in reader:
                for value in batch.column(text_field).to_pylist():
                    yield PathRow(f"{file.name}:{number}", value, "" if value is not None else "empty")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{file}: not a readable Arrow stream ({error}).") from error


def _require_field(file: Path, schema: pa.Schema, text_field: str) -> None:
    if text_field not in schema.names:
        raise SourceError(
            f"{file}: column {text_field!r} is missing; it has {', '.join(schema.names)}. "
            "Set `text_field` of this source."
        )
