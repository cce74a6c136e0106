"""Read the declared row tables of an artifact: by id, by what a column refers to, or by a piece of text."""

import json
import string
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from nanbeige_core.lineage.declare import RowTable
from nanbeige_core.lineage.view import ArtifactView

pc: Any = compute  # its functions are made at import: a type checker knows none of them

Values = dict[str, Any]


class Row(NamedTuple):
    """One row of an artifact."""

    view: ArtifactView
    table: RowTable
    values: Values

    @property
    def id(self) -> str:
        """Return the row's name inside the artifact."""
        return "/".join(str(self.values[column]) for column in self.table.key)

    @property
    def address(self) -> str:
        """Return `<stage>/<fingerprint16>#<row>`, which `trace` takes."""
        return f"{self.view.address}#{self.id}"

    @property
    def says(self) -> str:
        """Return what the row tells, in words."""
        return _Sentence().vformat(self.table.says, (), self.values)

    @property
    def score(self) -> float | None:
        """Return the row's value; None where it has none or was not scored."""
        value = self.values.get(self.table.score) if self.table.score else None
        if value is None or self.values.get("scored") is False:
            return None
        return self.table.values.get(value) if self.table.values else float(value)

    def texts(self) -> dict[str, str]:
        """Return the row's texts; token ids are decoded with the artifact's input tokenizer."""
        found = {name: str(self.values[name]) for name in self.table.text if self.values.get(name)}
        tokenizer = self.view.input("tokenizer")
        if self.table.tokens and tokenizer is not None:
            found["text"] = _decoder(tokenizer.path)(self.values[self.table.tokens])
        return found

    def writers(self) -> list[ArtifactView]:
        """Return the models that wrote the row."""
        names = [name.format(**self.values) for name in self.table.written_by]
        return [view for view in (self.view.input(name) for name in names) if view is not None]


class _Sentence(string.Formatter):
    """Format numbers as usual; for text, what stands after the colon replaces an empty one."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if value is None:
            return "unknown"
        return (value or format_spec) if isinstance(value, str) else format(value, format_spec)


def rows_where(
    view: ArtifactView, table: RowTable, column: str, wanted: Collection[str], *, limit: int | None = None
) -> list[Row]:
    """Return the rows whose `column` is one of `wanted`, in file order; the column is read alone first."""
    values = pa.array(list(wanted), pa.string())
    found: list[Row] = []
    for values_of in _parts(view, table, column, lambda one: pc.is_in(one.cast(pa.string()), values)):
        found += [Row(view, table, one) for one in values_of]
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found


def rows_at(view: ArtifactView, key: str) -> list[Row]:
    """Return the rows that `key` names in any table: all parts of the key, or one id that occurs in it."""
    found: list[Row] = []
    for table in view.tables:
        parts = key.split("/", len(table.key) - 1)
        if len(parts) == len(table.key) > 1:
            rows = rows_where(view, table, table.key[-1], [parts[-1]])
            found += [row for row in rows if row.id == key]
        if not found or len(table.key) == 1:
            for column in dict.fromkeys([table.key[0], *table.refers]):
                found += [row for row in rows_where(view, table, column, [key]) if row not in found]
    return found


def rows_with_text(view: ArtifactView, piece: str, *, limit: int) -> list[Row]:
    """Return rows with `piece` in one of their texts. Reads the text columns of the artifact."""
    found: list[Row] = []
    for table in view.tables:
        for column in table.text:
            for values_of in _parts(view, table, column, lambda one: pc.match_substring(one, piece)):
                found += [Row(view, table, one) for one in values_of]
                if len(found) >= limit:
                    return found[:limit]
    return found


def every_row(view: ArtifactView, table: RowTable, columns: Collection[str]) -> Iterator[Row]:
    """Yield all rows of a table with these columns alone."""
    for part in _tables(view, table, columns):
        for values in part.to_pylist():
            yield Row(view, table, values)


def _parts(view: ArtifactView, table: RowTable, column: str, matches: Callable[[Any], Any]) -> Iterator[list[Values]]:
    """Yield, file by file, the matching rows with every column the declaration names."""
    for file in _files(view, table):
        if ".json:" in table.file:
            one = _json_table(file, table.file.partition(":")[2])
            if column in one.schema.names:
                yield _filled(one.filter(matches(one[column])).to_pylist(), table)
            continue
        names = pq.read_schema(file).names
        if column not in names:
            continue
        mask = matches(pq.read_table(file, columns=[column])[column])
        if pc.any(mask).as_py():
            wanted = [name for name in _columns(table) if name in names]
            yield _filled(pq.read_table(file, columns=wanted).filter(mask).to_pylist(), table)


def _tables(view: ArtifactView, table: RowTable, columns: Collection[str]) -> Iterator[pa.Table]:
    for file in _files(view, table):
        if ".json:" in table.file:
            yield _json_table(file, table.file.partition(":")[2])
        else:
            names = pq.read_schema(file).names
            yield pq.read_table(file, columns=[name for name in columns if name in names])


def _filled(rows: list[Values], table: RowTable) -> list[Values]:
    """Give columns that an older artifact lacks the value None."""
    return [{**dict.fromkeys(_columns(table)), **row} for row in rows]


def _columns(table: RowTable) -> list[str]:
    names = (*table.key, *table.refers, *table.columns, *table.text, *table.groups)
    given = [*names, table.tokens, table.score, table.subject]
    return [name for name in dict.fromkeys(given) if name]


def _files(view: ArtifactView, table: RowTable) -> list[Path]:
    return sorted(view.path.glob(table.file.partition(":")[0]))


@lru_cache(maxsize=8)
def _json_table(file: Path, key: str) -> pa.Table:
    content = json.loads(file.read_text(encoding="utf-8"))
    return pa.Table.from_pylist(content[key] if key else content)


@lru_cache(maxsize=4)
def _decoder(tokenizer: Path) -> Callable[[list[int]], str]:
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    return lambda ids: loaded.decode(ids, skip_special_tokens=False)
