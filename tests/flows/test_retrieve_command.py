import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome
from tests.report.building import as_table, plan_of, seal_stage

TEXTS = {
    "disk": "To resize a partition, unmount the disk and run the partition editor on it.",
    "print": "The printer dialogue sets paper size and the number of copies.",
    "poem": "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "moon": "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。",
    "disk-code": "def resize_partition(disk): return disk.partition.resize()",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = Store(tmp_path / "store", tmp_path / "store" / ".cache")
    rows: list[dict[str, Any]] = [
        {"id": name, "text": text, "source": "s", "category": "code" if "code" in name else "web",
         "language": "zh" if text[0] > "\u3000" else "en", "tag_score": float(number)}
        for number, (name, text) in enumerate(TEXTS.items())
    ]  # fmt: skip
    files = {"documents/0.parquet": as_table(rows), "dropped.parquet": as_table([{"id": "x"}])}
    seal_stage(store, plan_of(store), "retrieval_dedup", Outcome(summary="curated"), files)
    return tmp_path / "store"


def ask(folder: Path, *arguments: str) -> list[str]:
    command = ["retrieve", *arguments, "--store", str(folder), "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    return [hit["id"] for hit in json.loads(result.stdout)["hits"]]


def test_documents_are_found_in_both_languages_and_filtered(folder: Path) -> None:
    assert ask(folder, "how do I resize a partition of my disk", "-n", "2")[0] == "disk"
    assert set(ask(folder, "明月", "-n", "2")) == {"poem", "moon"}
    assert ask(folder, "resize partition disk", "--category", "code", "-n", "1") == ["disk-code"]
    assert ask(folder, "明月", "--language", "zh", "--min-score", "3") == ["moon"]
    (stored,) = (folder / ".cache" / "tables").glob("*/documents.lance/data/*")
    stored.write_bytes(stored.read_bytes()[:100])
    assert ask(folder, "明月", "--language", "zh", "--min-score", "3") == ["moon"], "a table cut off is built again"
    (again,) = (folder / ".cache" / "tables").glob("*/documents.lance/data/*")
    assert again.stat().st_size > 100


def test_only_the_first_question_builds_and_says_so_beside_the_answer(folder: Path) -> None:
    command = ["retrieve", "disk", "--store", str(folder), "--json"]
    first, second = (CliRunner().invoke(app, command, catch_exceptions=False) for _ in range(2))
    assert "building the document table of 5 documents" in first.stderr
    assert second.stderr == ""
    assert json.loads(first.stdout) == json.loads(second.stdout)
    told = CliRunner().invoke(app, ["retrieve", "月球", "--min-score", "9", "--store", str(folder)])
    assert "nothing found among 0 documents that pass the filters" in told.stdout


def test_a_corpus_without_documents_is_an_error_that_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", tmp_path / "store" / ".cache")
    names = ("id", "text", "source", "category", "language")
    empty = pa.schema([*((name, pa.string()) for name in names), ("tag_score", pa.float64())]).empty_table()
    files = {"documents/0.parquet": lambda path: pq.write_table(empty, path), "dropped.parquet": as_table([{"id": ""}])}
    seal_stage(store, plan_of(store), "retrieval_dedup", Outcome(summary="curated"), files)
    result = CliRunner().invoke(app, ["retrieve", "disk", "--store", str(tmp_path / "store")])
    assert "no documents, so there is nothing to query" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "elsewhere"], "no document has source 'elsewhere'; there are s"),
        (["--category", "books"], "no document has category 'books'; there are code, web"),
        (["--language", "fr"], "no document has language 'fr'; there are en, zh"),
        (["--ray-address", "127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        (["--embedding", "retrieval_dedup"], "is a CuratedCorpus, --embedding names an Embedding"),
    ],
)
def test_a_wrong_filter_or_embedding_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["retrieve", "disk", "--store", str(folder), *arguments])
    assert message in str(result.exception)
