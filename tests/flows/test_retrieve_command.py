import json
from pathlib import Path
from typing import Any

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
    (stored,) = (folder / ".cache" / "indexes").glob("*.npz")
    stored.write_bytes(stored.read_bytes()[:100])
    assert ask(folder, "明月", "--language", "zh", "--min-score", "3") == ["moon"], "an index cut off is built again"
    assert len(stored.read_bytes()) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", "elsewhere"], "no document has source 'elsewhere'; there are s"),
        (["--embedding", "retrieval_dedup"], "is a CuratedCorpus, --embedding names an Embedding"),
    ],
)
def test_a_wrong_filter_or_embedding_is_refused(folder: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["retrieve", "disk", "--store", str(folder), *arguments])
    assert message in str(result.exception)
