"""Documents on disk that a stage goes through several times and never holds."""

import bisect
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.tables import read_rows, read_table, table_files, write_shards

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

ROWS_PER_FILE = 4000

Row = dict[str, Any]


class Part(NamedTuple):
    """Some neighbouring documents: how many, and what reads their texts."""

    documents: int
    read: Callable[[], list[str]]


@dataclass(frozen=True)
class Pool:
    """The rows of some Parquet files in their order, less those whose id was removed."""

    files: tuple[Path, ...]
    removed: frozenset[str] = frozenset()

    @staticmethod
    def write(folder: Path, schema: pa.Schema, rows: Iterable[Row]) -> "Pool":
        """Write rows, of which only the columns of the schema are kept, and return them as a pool."""
        chosen = ({name: row[name] for name in schema.names} for row in rows)
        write_shards(folder, schema, chosen, rows_per_file=ROWS_PER_FILE)
        return Pool(tuple(table_files(folder)))

    def rows(self, *columns: str) -> Iterator[Row]:
        """Yield the rows, all columns or some and the id."""
        for file in self.files:
            for row in read_rows(file, ("id", *columns) if columns else None):
                if row["id"] not in self.removed:
                    yield row

    def tables(self, columns: Sequence[str], workers: int = 1) -> Iterator[pa.Table]:
        """Yield some columns as one table for each file, in order; `workers` threads read."""
        return map_in_order(lambda file: self._read(file, columns), self.files, workers)

    def parts(self, workers: int = 1) -> list[Part]:
        """Return the pool file by file, for what goes through its texts on several threads."""
        sizes = [table.num_rows for table in self.tables(("id",), workers)]
        readers = [functools.partial(self._texts, file) for file in self.files]
        return [Part(size, read) for size, read in zip(sizes, readers, strict=True)]

    def without(self, ids: Iterable[str]) -> "Pool":
        """Return the pool less some more ids."""
        return replace(self, removed=self.removed | set(ids))

    @functools.cached_property
    def _sorted_removed(self) -> list[str]:
        return sorted(self.removed)

    def _texts(self, file: Path) -> list[str]:
        return self._read(file, ("text",))["text"].to_pylist()

    def _read(self, file: Path, columns: Sequence[str]) -> pa.Table:
        table = read_table(file, [*columns, "id"] if "id" not in columns else columns)
        if self.removed and table.num_rows:
            ids, removed = table["id"], self._sorted_removed
            low, high = (pc.min_max(ids)[name].as_py() for name in ("min", "max"))
            mine = removed[bisect.bisect_left(removed, low) : bisect.bisect_right(removed, high)]
            table = table.filter(pc.invert(pc.is_in(ids, pa.array(mine, ids.type))))
        return table.select(list(columns))
