import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app

TEXT = " ".join(f"word{number}" for number in range(100))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    texts = [TEXT, TEXT + " more", "something else entirely, of a few words", TEXT.upper()]
    table = pa.table({"name": list("abcd"), "body": texts, "site": ["s", "s", "s", "t"]})
    pq.write_table(table, tmp_path / "0.parquet")
    return tmp_path / "0.parquet"


def test_duplicates_of_any_table_are_found_with_evidence(shard: Path) -> None:
    command = ["dedup", str(shard), "--work", str(shard.parent / "work"), "--id", "name", "--text", "body", "--json"]
    result = CliRunner().invoke(app, [*command, "--source", "site"], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["removed"] == {"near_duplicate": 2}
    assert found["by_source"] == {"s": 1, "t": 1}
    rows = pq.ParquetFile(found["evidence"]).read().to_pylist()
    assert [(row["id"], row["kept_id"]) for row in rows] == [("a", "b"), ("d", "b")]


@pytest.mark.parametrize(
    ("extra", "message"),
    [(["--executor", "array"], "SLURM_ARRAY_TASK_ID is ''"), (["--text", "nothing"], "column 'nothing' is missing")],
)
def test_a_wrong_request_says_what_to_do(
    shard: Path, extra: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    command = ["dedup", str(shard), "--work", str(shard.parent / "work"), "--id", "name", "--text", "body"]
    result = CliRunner().invoke(app, [*command, *extra])
    assert message in str(result.exception)
