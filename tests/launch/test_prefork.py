import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import StageError
from nanbeige_core.launch.execute import execute
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.prefork import ForkedWorker, Prefork
from tests.launch.test_execute import ingest_order


@pytest.fixture(scope="module")
def server() -> Iterator[Prefork]:
    with Prefork({"ingest"}, threads=1) as opened:
        assert opened.wait_ready(60)
        yield opened


@pytest.fixture
def fork(server: Prefork) -> Callable[[JobFile], ForkedWorker]:
    return lambda file: server.start(file.path, file.log)


def pids_of(pattern: str) -> list[int]:
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_forked_worker_makes_the_same_artifact(
    tmp_path: Path, store: Store, fork: Callable[[JobFile], ForkedWorker]
) -> None:
    forked = execute(ingest_order(tmp_path), {}, store, start=fork)
    fresh = execute(ingest_order(tmp_path, forced=True), {}, store)
    documents = [
        {name: entry.sha256 for name, entry in made.manifest.files.items() if name.startswith("documents/")}
        for made in (forked, fresh)
    ]
    assert documents[0] == documents[1] != {}
    assert forked.manifest.resources["cpu_seconds"] > 0


def test_a_forked_workers_error_reaches_the_parent_with_its_log(
    tmp_path: Path, store: Store, fork: Callable[[JobFile], ForkedWorker]
) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is no parquet file PAR1")
    with pytest.raises(StageError, match=r"(?s)ingest failed.*broken\.parquet.*last log lines.*Traceback"):
        execute(ingest_order(tmp_path, path=broken), {}, store, start=fork)


def test_one_server_runs_workers_side_by_side(tmp_path: Path, store: Store, server: Prefork) -> None:
    workers = []
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        # a job file that does not exist: each worker ends at once, with its own status and log
        workers.append(server.start(folder / "absent.json", folder / "log.txt"))
    assert [worker.wait(30) for worker in workers] == [1, 1, 1]
    assert all("absent.json" in (tmp_path / str(n) / "log.txt").read_text() for n in range(3))


def test_workers_end_with_their_server(tmp_path: Path) -> None:
    pipe = tmp_path / "job.json"
    os.mkfifo(pipe)  # a worker that reads it waits until it is killed
    with Prefork({"ingest"}, threads=1) as server:
        assert server.wait_ready(60)
        worker = server.start(pipe, tmp_path / "log.txt")
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(0.5)
        child = worker.pid
        started = time.monotonic()
    assert worker.wait(5) != 0
    assert time.monotonic() - started < 10
    assert not Path(f"/proc/{child}").exists()


def test_a_signal_reaches_the_worker(tmp_path: Path, server: Prefork) -> None:
    pipe = tmp_path / "job.json"
    os.mkfifo(pipe)
    worker = server.start(pipe, tmp_path / "log.txt")
    worker.kill()
    assert worker.wait(10) == -signal.SIGKILL


def test_the_server_dies_with_its_client() -> None:
    code = (
        "import sys, time; from nanbeige_core.launch.prefork import Prefork;"
        "p = Prefork({'export'}, threads=7); p.wait_ready(60); print('up', flush=True); time.sleep(60)"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    assert client.stdout.readline() == "up\n"
    mine = f"prefork {client.pid} 7 export"
    assert pids_of(mine)
    client.kill()
    client.wait()
    deadline = time.monotonic() + 10
    while pids_of(mine) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not pids_of(mine)


def test_a_workers_end_is_noticed_though_a_child_of_it_lives_on() -> None:
    # the child holds every pipe that it inherited, and has asked the kernel not to end it with its parent
    code = (
        "import ctypes, json, os, sys, time\n"
        "from nanbeige_core.launch import prefork\n"
        "def work(job, log, server):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        ctypes.CDLL(None).prctl(1, 0)\n"
        "        time.sleep(60)\n"
        "    print(json.dumps({'id': 0, 'pid': child}), flush=True)\n"
        "    time.sleep(0.5)\n"
        "    os._exit(7)\n"
        "prefork.run_forked = work\n"
        "prefork.serve(os.getppid(), 1, [])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert json.loads(server.stdout.readline()) == {"ready": True}
        server.stdin.write(json.dumps({"id": 0, "job": "", "log": ""}) + "\n")
        server.stdin.flush()
        started, child, status = time.monotonic(), 0, None
        while status is None:
            answer = json.loads(server.stdout.readline())
            child = max(child, answer.get("pid", 0))
            status = answer.get("status")
        os.kill(child, signal.SIGKILL)
        assert (status, time.monotonic() - started < 20) == (7, True)
        server.stdin.close()


def test_what_a_worker_forked_dies_with_it() -> None:
    code = (
        "import os, time\n"
        "from nanbeige_core.launch.worker import die_with_parent\n"
        "die_with_parent(os.getppid())\n"
        "child = os.fork()\n"
        "print(child, flush=True) if child else None\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        assert lives(child)
        worker.kill()
        worker.wait()
        deadline = time.monotonic() + 10
        while lives(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not lives(child)
