"""Follow one row back: to the rows it was made from, and to the models that wrote it."""

from nanbeige_core.lineage.tables import Row, rows_where
from nanbeige_core.lineage.view import ArtifactView, Key


def rows_before(row: Row) -> list[Row]:
    """Return the rows a row was made from, the nearest first, each once."""
    found: list[Row] = []
    seen: set[str] = {row.address}
    pending = [row]
    while pending:
        current = pending.pop(0)
        for upstream in _referred(current):
            if upstream.address not in seen:
                seen.add(upstream.address)
                found.append(upstream)
                pending.append(upstream)
    return found


def _referred(row: Row) -> list[Row]:
    found: list[Row] = []
    for column, names in row.table.refers.items():
        for name in names:
            view = row.view.input(name)
            if view is not None:
                found += _by_key(view, str(row.values[column]))
    return found


def _by_key(view: ArtifactView, key: str) -> list[Row]:
    tables = [table for table in view.tables if len(table.key) == 1]
    return [row for table in tables for row in rows_where(view, table, table.key[0], [key])]


def roots_of(rows: list[Row]) -> list[Row]:
    """Return the rows that come from no other of the given ones."""
    keys: set[tuple[Key, str]] = {(row.view.key, row.id) for row in rows}

    def is_root(row: Row) -> bool:
        return not any((one.view.key, one.id) in keys for one in rows_before(row))

    return [row for row in rows if is_root(row)]
