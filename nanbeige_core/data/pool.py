"""Documents on disk that a stage goes through several times and never holds."""

import bisect
import functools
import importlib
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.tables import ROWS_PER_GROUP, read_table, table_files, write_shards

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

ROWS_PER_FILE = 4000

_AS_PY = operator.methodcaller("as_py")

Row = dict[str, Any]


class Part(NamedTuple):
    """Some neighbouring documents: how many, and what reads their texts, or those at some places alone."""

    documents: int
    read: Callable[[], list[str]]
    read_some: Callable[[list[int]], list[str]] | None = None

    def pick(self, places: list[int]) -> list[str]:
        """Return the texts at some places; where `read_some` is not given, all are read."""
        if self.read_some:
            return self.read_some(places)
        texts = self.read()
        return [texts[place] for place in places]


def no_ids() -> pa.Array:
    """Return an Arrow column of ids without any."""
    return pa.array([], pa.string())


@dataclass(frozen=True)
class Pool:
    """The rows of some Parquet files in their order, less those whose id was removed.

    `removed` holds ids ascending: an Arrow column, in which an id takes a third of what it takes as an object.
    """

    files: tuple[Path, ...]
    removed: pa.Array = field(default_factory=no_ids)

    @staticmethod
    def write(folder: Path, schema: pa.Schema, rows: Iterable[Row]) -> "Pool":
        """Write rows, of which only the columns of the schema are kept, and return them as a pool."""
        chosen = ({name: row[name] for name in schema.names} for row in rows)
        write_shards(folder, schema, chosen, rows_per_file=ROWS_PER_FILE)
        return Pool(tuple(table_files(folder)))

    def rows(self, *columns: str) -> Iterator[Row]:
        """Yield the rows, all columns or some and the id."""
        for file in self.files:
            yield from rows_of(self._read(file, ["id", *columns] if columns else None))

    def tables(self, columns: Sequence[str], workers: int = 1) -> Iterator[pa.Table]:
        """Yield some columns as one table for each file, in order; `workers` threads read."""
        return map_in_order(lambda file: self._read(file, columns), self.files, workers)

    def parts(self, workers: int = 1) -> list[Part]:
        """Return the pool file by file, for what goes through its texts on several threads."""
        sizes = [table.num_rows for table in self.tables(("id",), workers)]
        readers = [functools.partial(self._texts, file) for file in self.files]
        return [Part(size, read, read) for size, read in zip(sizes, readers, strict=True)]

    def without(self, ids: pa.ChunkedArray) -> "Pool":
        """Return the pool less some more ids."""
        joined = pa.chunked_array([self.removed, *ids.cast(pa.string()).chunks], pa.string()).combine_chunks()
        return replace(self, removed=joined.take(pc.sort_indices(joined)))

    def _texts(self, file: Path, places: list[int] | None = None) -> list[str]:
        texts = self._read(file, ("text",))["text"]
        return (texts if places is None else texts.take(pa.array(places, pa.int64()))).to_pylist()

    def _read(self, file: Path, columns: Sequence[str] | None) -> pa.Table:
        table = read_table(file, [*columns, "id"] if columns and "id" not in columns else columns)
        if len(self.removed) and table.num_rows:
            mine = self.removed[span_among(table["id"], self.removed)]
            table = table.filter(pc.invert(pc.is_in(table["id"], mine.cast(table["id"].type))))
        return table.select(list(columns)) if columns else table


def span_among(column: pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray) -> slice:
    """Return where in the ascending `ids` those lie that are between the least and the greatest of a column."""
    if not len(column):
        return slice(0, 0)
    low, high = (pc.min_max(column)[name].as_py() for name in ("min", "max"))
    first = bisect.bisect_left(ids, low, key=_AS_PY)
    return slice(first, bisect.bisect_right(ids, high, key=_AS_PY))


def rows_of(table: pa.Table) -> Iterator[Row]:
    """Yield the rows of a table, a few thousand at a time as objects."""
    for batch in table.to_batches(ROWS_PER_GROUP):
        yield from batch.to_pylist()
