import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanbeige_core.launch.damage import drop_damaged


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A half-done stage that left a file of every kind."""
    scratch = tmp_path / "a.work" / "scratch"
    (scratch / "resume" / "step-2").mkdir(parents=True)
    (scratch / "chunk.json").write_text(json.dumps([{"text": "x" * 50}]))
    (scratch / "resume" / "step-2" / "state.json").write_text('{"step": 2}')
    (scratch / "cut-by-a-kill.json.part").write_text("[")
    table = pa.table({"id": list(range(50))})
    pq.write_table(table, scratch / "rows.parquet")
    with pa.OSFile(str(scratch / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    np.save(scratch / "numbers.npy", np.arange(50))
    np.savez(scratch / "numbers.npz", a=np.arange(50))
    pq.write_table(table, tmp_path / "a.work" / "documents.parquet")
    return tmp_path / "a.work"


def test_what_is_whole_stays(work: Path) -> None:
    before = sorted(work.rglob("*"))
    assert drop_damaged(work) == []
    assert sorted(work.rglob("*")) == before
    assert drop_damaged(work.with_name("never-begun")) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
@pytest.mark.parametrize("name", ["chunk.json", "rows.parquet", "rows.arrow", "numbers.npy", "numbers.npz"])
def test_a_cut_file_is_dropped_alone(work: Path, name: str, share: float) -> None:
    path = work / "scratch" / name
    os.truncate(path, int(share * path.stat().st_size))
    whole = {other for other in work.rglob("*") if other != path}
    assert drop_damaged(work) == [f"scratch/{name}"]
    assert set(work.rglob("*")) == whole


def test_with_a_cut_output_that_counts_as_finished_everything_goes(work: Path) -> None:
    path = work / "documents.parquet"
    os.truncate(path, 100)
    os.utime(path, (1, 1))
    assert drop_damaged(work) == ["documents.parquet"]
    assert not work.exists()


def test_an_output_that_was_being_written_goes_alone(work: Path) -> None:
    path = work / "documents.parquet"
    os.truncate(path, 100)
    os.utime(path, (2e10, 2e10))
    assert drop_damaged(work) == ["documents.parquet"]
    assert (work / "scratch" / "chunk.json").exists()


def test_resume_points_look_after_themselves(work: Path) -> None:
    (work / "scratch" / "resume" / "step-2" / "state.json").write_text("{")
    assert drop_damaged(work) == []
