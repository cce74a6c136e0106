from pathlib import Path

import pyarrow as pa
import pytest

from nanbeige_core.data.tables import TableError, read_rows, read_table, write_rows, write_shards, write_table

SCHEMA = pa.schema([("id", pa.string()), ("size", pa.int64())])


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"r{number}", "size": number} for number in range(count)]


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.parquet", SCHEMA, rows(5000))
    assert list(read_rows(tmp_path / "t.parquet")) == rows(5000)


def test_shards_read_back_in_order(tmp_path: Path) -> None:
    assert write_shards(tmp_path, SCHEMA, rows(25), rows_per_file=10) == 25
    assert read_table(tmp_path)["size"].to_pylist() == list(range(25))


def test_a_wrong_cell_is_named_by_row_and_column(tmp_path: Path) -> None:
    bad = [*rows(3), {"id": "x", "size": "many"}]
    with pytest.raises(TableError, match="row 3, column 'size' holds 'many'"):
        write_rows(tmp_path / "t.parquet", SCHEMA, bad)


def test_a_missing_column_in_a_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="differing: size"):
        write_rows(tmp_path / "t.parquet", SCHEMA, [{"id": "x"}])


def test_a_missing_column_in_a_file_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path / "t.parquet", SCHEMA, rows(1))
    with pytest.raises(TableError, match="column 'text' is missing"):
        list(read_rows(tmp_path / "t.parquet", columns=("text",)))


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(TableError, match="t.parquet: not a readable Parquet"):
        list(read_rows(tmp_path / "t.parquet"))


def test_an_interrupted_write_leaves_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableError):
        write_rows(tmp_path / "t.parquet", SCHEMA, [{"id": "x"}])
    assert not (tmp_path / "t.parquet").exists()


def test_a_table_is_written_as_its_rows_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.parquet", SCHEMA, rows(5000))
    write_table(tmp_path / "table.parquet", pa.Table.from_pylist(list(rows(5000)), schema=SCHEMA))
    assert (tmp_path / "table.parquet").read_bytes() == (tmp_path / "rows.parquet").read_bytes()
