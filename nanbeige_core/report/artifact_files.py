"""Read single files of a sealed artifact, from a local or remote store, without fetching the rest of it."""

import json
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


class ArtifactFiles:
    """The files of one artifact by their names in its manifest."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self._root = f"{store.root}/{manifest.reference.address}"

    def has(self, name: str) -> bool:
        """Tell whether the artifact holds the file."""
        return name in self.manifest.files

    def names(self, pattern: str) -> list[str]:
        """Return the files that match a glob pattern, in name order."""
        return sorted(name for name in self.manifest.files if fnmatchcase(name, pattern))

    def read_json(self, name: str) -> Any:
        """Parse a JSON file; raise ArtifactError naming it when it cannot be read."""
        try:
            with self.store.reaching(f"reading {self.manifest.reference.address}/{name}"):
                return json.loads(self.store.filesystem.cat_file(f"{self._root}/{name}"))
        except (OSError, ValueError) as error:
            raise self._broken(name, error) from error

    def columns(self, pattern: str) -> list[str]:
        """Return the column names of the first table that matches, empty without one."""
        found = self.names(pattern)
        if not found:
            return []
        with self._open(found[0]) as table:
            return list(table.schema_arrow.names)

    def rows(self, pattern: str) -> int:
        """Return how many rows the matching tables hold (from their footers)."""
        total = 0
        for name in self.names(pattern):
            with self._open(name) as table:
                total += table.metadata.num_rows
        return total

    def batches(self, pattern: str, columns: Sequence[str]) -> "Iterator[pa.RecordBatch]":
        """Yield record batches of those of `columns` that exist, over every matching table in name order."""
        import pyarrow as pa

        for name in self.names(pattern):
            with self._open(name) as table:
                present = [column for column in columns if column in table.schema_arrow.names]
                try:
                    yield from table.iter_batches(4096, columns=present)
                except (OSError, pa.ArrowException) as error:
                    raise self._broken(name, error) from error

    def read_table(self, pattern: str, columns: Sequence[str]) -> "pa.Table":
        """Return those of `columns` that exist as one table; empty when no file matches."""
        import pyarrow as pa

        batches = list(self.batches(pattern, columns))
        return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})

    def pick_rows(self, pattern: str, numbers: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Return rows by their number over all matching tables; only row groups that hold one are read."""
        wanted = sorted(set(numbers))
        found: dict[int, dict[str, Any]] = {}
        first = 0
        for name in self.names(pattern):
            with self._open(name) as table:
                present = [column for column in columns if column in table.schema_arrow.names]
                for group in range(table.metadata.num_row_groups):
                    end = first + table.metadata.row_group(group).num_rows
                    inside = [number for number in wanted if first <= number < end]
                    if inside:
                        picked = table.read_row_group(group, columns=present).take([n - first for n in inside])
                        found |= dict(zip(inside, picked.to_pylist(), strict=True))
                    first = end
        return found

    def input_files(self, name: str) -> "ArtifactFiles | None":
        """Return the files of an input artifact, None when it is no longer in the store."""
        reference = self.manifest.inputs.get(name)
        found = self.store.find(reference.stage, reference.fingerprint) if reference else None
        return ArtifactFiles(self.store, found) if found else None

    def _open(self, name: str) -> "pq.ParquetFile":
        # imported here: `plan` and `ls` share this room and must start at once
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(self.store.filesystem.open(f"{self._root}/{name}", "rb"))
        except (OSError, pa.ArrowException) as error:
            raise self._broken(name, error) from error

    def _broken(self, name: str, error: Exception) -> ArtifactError:
        address = self.manifest.reference.address
        return ArtifactError(
            f"{name} of artifact {address} cannot be read ({type(error).__name__}: {error}). `nanbeige verify` tells "
            f"which files differ from the manifest; `nanbeige run --only {self.manifest.stage} --force` makes it again."
        )
