"""What runs share on one Prefect server: cores and GPUs are given to one stage after the other, whoever runs it."""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import StageError
from tasks.core_slots import CORES_LIMIT
from tasks.gpu_slots import hold_gpus, limit_name
from tests.flows.service import wait_for
from tests.flows.test_pipeline import corpus_file

pytestmark = pytest.mark.server

RUN_ON_ONE_GPU = """
import flows.gpus
flows.gpus.visible_gpus = lambda: ("0",)
from flows.cli import app
app()
"""


def recipe(folder: Path, launcher: str) -> Path:
    folder.mkdir()
    source = {"type": "path", "path": str(corpus_file(folder)), "category": "web", "language": "en"}
    stages = {"ingest": {"config": {"sources": [source]}, "runtime": {"launcher": launcher}}}
    file = folder / "pipelines.yaml"
    file.write_text(json.dumps({"recipe": "x", "stages": stages, "profiles": {"laptop": {"title": "x"}}}))
    return file


def start(file: Path, api: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN_ON_ONE_GPU, "run", "--file", str(file), "--store", str(file.parent / "store")],
        cwd=file.parent,
        env={**os.environ, "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def tasks_running() -> int:
    """Return how many stages' tasks have begun and not ended: those at a gate are among them."""
    with get_client(sync_client=True) as client:
        return sum(run.state_name == "Running" for run in client.read_task_runs())


def interval(file: Path) -> tuple[datetime, datetime]:
    (manifest,) = Store(file.parent / "store", file.parent / "cache").manifests("ingest")
    begun = datetime.fromisoformat(manifest.started)
    return begun, begun + timedelta(seconds=manifest.seconds)


@pytest.fixture(autouse=True)
def api(prefect_api: str) -> Iterator[str]:
    """Let this process too be a client of the server."""
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.fixture
def one_core(api: str) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(CORES_LIMIT, 1)
        yield
        client.delete_global_concurrency_limit_by_name(CORES_LIMIT)


@contextmanager
def taken(limit: str) -> Generator[None]:
    with hold_gpus(1, ("0",)) if limit != CORES_LIMIT else concurrency(limit, timeout_seconds=30):
        yield


@pytest.mark.usefixtures("one_core")
@pytest.mark.parametrize(("launcher", "limit"), [("process", CORES_LIMIT), ("elastic", limit_name("0"))])
def test_stages_of_two_flows_take_turns(launcher: str, limit: str, api: str, tmp_path: Path) -> None:
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(CORES_LIMIT, GlobalConcurrencyLimitUpdate(active=limit == CORES_LIMIT))
    files = [recipe(tmp_path / name, launcher) for name in ("first", "second")]
    with taken(limit):
        runs = [start(file, api) for file in files]
        wait_for(lambda: tasks_running() == len(runs), 120)
        begun = [path for file in files for path in file.parent.glob("store/ingest/*")]
    ended = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "".join(ended)
    assert begun == []
    (_, first_end), (second_begin, _) = sorted(interval(file) for file in files)
    assert first_end <= second_begin
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name(limit).active_slots == 0


def test_two_stages_on_one_machine_are_given_different_gpus() -> None:
    with hold_gpus(2, ("4", "5", "6")) as first, hold_gpus(1, ("4", "5", "6")) as second:
        assert (first, second) == (("4", "5"), ("6",))
    with hold_gpus(3, ("4", "5", "6")) as third:
        assert third == ("4", "5", "6")


def test_more_ranks_than_gpus_are_refused_with_both_numbers() -> None:
    with pytest.raises(StageError, match=r"runtime.processes is 8.*offers 2 \(0, 1\)"), hold_gpus(8, ("0", "1")):
        pass
    with hold_gpus(8, ()) as without_any:
        assert without_any == ()
