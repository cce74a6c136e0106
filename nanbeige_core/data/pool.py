"""Documents on disk that a stage goes through several times and never holds."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from nanbeige_core.data.tables import read_rows, table_files, write_shards

ROWS_PER_FILE = 4000

Row = dict[str, Any]


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

    def texts(self) -> Iterator[str]:
        """Yield the texts in order."""
        return (row["text"] for row in self.rows("text"))

    def without(self, ids: Iterable[str]) -> "Pool":
        """Return the pool less some more ids."""
        return replace(self, removed=self.removed | set(ids))
