"""The fault harness at a short size: one stage, every kind of fault, twice."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.faults.project import wait_for
from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.faults import laboratory as module
from nanbeige_core.faults.__main__ import break_runs
from nanbeige_core.faults.kinds import KINDS, message_problem
from nanbeige_core.faults.laboratory import Laboratory, Trial, Watch
from nanbeige_core.faults.results import MENDED, Result, fault_table, note_result, read_results, stage_table


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with Laboratory(tmp_path_factory.mktemp("faults"), until="ingest") as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_mends_after(laboratory: Laboratory, kind: str) -> None:
    results = break_runs(laboratory, {kind: 2}, seed=7)
    assert all(result.good for result in results), fault_table(results)


def finished(laboratory: Laboratory) -> tuple[Trial, Path]:
    """Return a trial with a copy of the reference's artifact, and where it is."""
    trial = laboratory.trial("ingest")
    laboratory.copy("ingest", trial.store)
    return trial, trial.store.local_path(laboratory.manifest(trial.store, "ingest"))


def test_an_artifact_that_is_served_half_made_is_noticed(laboratory: Laboratory) -> None:
    trial, folder = finished(laboratory)
    path = folder / "report.md"
    path.write_bytes(path.read_bytes()[::-1])
    with laboratory.reader(trial) as reader:
        wait_for(lambda: reader.problem, 10)
    assert reader.problem == "served half-made: report.md"
    assert laboratory.differences(trial) == ["damaged: report.md"]


def test_another_number_of_rows_is_noticed(laboratory: Laboratory) -> None:
    trial, folder = finished(laboratory)
    assert not laboratory.differences(trial)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["outcome"]["counts"]["kept"] += 1
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert laboratory.differences(trial) == ["counts"]


def test_what_is_left_behind_is_noticed(laboratory: Laboratory) -> None:
    trial, folder = finished(laboratory)
    left = [folder.with_name(f"{folder.name}.work"), folder / "documents/a.part"]
    left[0].mkdir()
    left[1].touch()
    assert set(laboratory.differences(trial)) == {f"left: {path}" for path in left} | {"damaged: documents/a.part"}


def test_a_process_that_stays_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GONE_SECONDS", 0.2)
    watch = Watch()
    with subprocess.Popen(["sleep", "60"]) as process:
        watch.look(process.pid)
        assert watch.orphans() == [f"process {process.pid}"]
        process.kill()
    assert not watch.orphans()


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ("stage ingest failed. Run the same command again to go on.", ""),
        ("it failed. Run the same command again to go on.", "does not name the stage"),
        ("stage ingest failed.", "names no remedy"),
    ],
)
def test_a_message_without_stage_or_remedy_is_noticed(message: str, problem: str) -> None:
    assert problem in message_problem(message, "ingest", "")
    assert bool(message_problem(message, "ingest", "")) == bool(problem)


def test_a_later_call_goes_on_from_the_results_of_an_earlier_one(laboratory: Laboratory, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first = break_runs(laboratory, {"byte flipped": 2}, seed=7, note=lambda result: note_result(path, result))
    assert read_results(path) == first
    again = break_runs(laboratory, {"byte flipped": 3}, seed=7, earlier=read_results(path))
    assert again[:2] == first
    assert [result.trial for result in again] == [0, 1, 2]


def test_the_table_counts_and_names_what_is_wrong() -> None:
    results = [Result("worker killed", "ingest", MENDED), Result("worker killed", "dpd", "another artifact: a")]
    table = fault_table(results)
    assert "| worker killed | 2 | 1 | 0 | 0 | 1 |" in table
    assert "- worker killed, dpd: another artifact: a" in table
    assert stage_table(results).splitlines()[2:] == ["| ingest | 1 |", "| dpd | 1 |"]
