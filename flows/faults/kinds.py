"""Faults around a run: each breaks a real `nanbeige` command, lets it be gone on with, and says what became of it.

A run may go on through the fault, or end with a message that names the way on. Then the same command must end in the
reference's artifact, what was finished must not be made again, and no process may be left.
"""

import random
import sqlite3
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager

from flows.faults.project import END_SECONDS, Command, Project, ask, wait_for
from flows.server import free_port
from flows.server_process import START_SECONDS
from nanbeige_core.faults.kinds import REMEDIES, Kind, same
from nanbeige_core.faults.laboratory import Laboratory
from nanbeige_core.faults.results import MENDED, MISSED

_LOCKED_SECONDS = (3.0, 20.0)
_SILENT_SECONDS = 300.0
_SHORT_PATIENCE = {"PREFECT_CLIENT_MAX_RETRIES": "2"}

Break = Callable[[Project, Command, random.Random], None]


def _while_running(act: Break) -> Kind:
    """Return the kind that does something at a random moment of a `nanbeige run`."""

    def fault(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
        project = Project(laboratory, stage, rng.choice)
        moment = rng.uniform(0, laboratory.seconds(stage))
        run = project.run()
        with _ended(run):
            hit = _reached(project, run, moment)
            if hit:
                act(project, run, rng)
            return _outcome(project, run, hit=hit)

    return fault


def _kill_server(project: Project, run: Command, rng: random.Random) -> None:
    server = run.child("prefect", "server", "start")
    if server is not None:
        server.kill()


def _lock_database(project: Project, run: Command, rng: random.Random) -> None:
    with closing(sqlite3.connect(project.database, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(rng.uniform(*_LOCKED_SECONDS))
        connection.rollback()


def _configured_server_lost(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Kill a server that the run did not start and that nobody starts again; the next run has one of its own."""
    project = Project(laboratory, stage, rng.choice)
    moment = rng.uniform(0, laboratory.seconds(stage))
    up = project.up(port := free_port())
    with _ended(up):
        wait_for(lambda: "Ctrl-C stops" in up.text or up.process.poll() is not None, START_SECONDS)
        up.look()
        run = project.run(PREFECT_API_URL=f"http://127.0.0.1:{port}/api", **_SHORT_PATIENCE)
        with _ended(run):
            hit = _reached(project, run, moment)
            up.process.kill()
            outcome = _outcome(project, run, hit=hit)
        return "; ".join([f"left {name}" for name in up.orphans()] or [outcome])


def _database_lost(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Delete or damage the server's database between two runs."""
    project = Project(laboratory, stage, rng.choice)
    if rng.random() < 0.5:
        project.database.unlink()
    else:
        with project.database.open("r+b") as stream:
            stream.write(rng.randbytes(1 << 16))
        refused = project.run()
        with _ended(refused):
            if refused.end() == 0:
                return "a damaged database is not noticed"
            if str(project.database) not in refused.text:
                return f"the message does not name the database: {refused.text[-400:]}"
        for path in project.home.glob("prefect.db*"):
            path.unlink()
    run = project.run()
    with _ended(run):
        return _outcome(project, run, hit=True)


def _two_flows(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Start the same command twice: each stage is executed by one, and the other finds its artifact."""
    project = Project(laboratory, stage, rng.choice)
    first = project.run()
    time.sleep(rng.uniform(0, 2))
    second = project.run()
    with _ended(first), _ended(second):
        statuses = [first.end(), second.end()]
    if statuses != [0, 0]:
        return f"ended with {statuses}: {(first.text + second.text)[-400:]}"
    executed = sum(
        f"- {stage}: {stage}/" in run.text and f"- {stage}: found " not in run.text for run in (first, second)
    )
    return same(laboratory, project.trial) if executed == 1 else f"executed {executed} times"


def _worker_killed(laboratory: Laboratory, stage: str, rng: random.Random) -> str:
    """Kill the worker of `up` during a run: `up` ends, the next one marks the run, and it is gone on with."""
    project = Project(laboratory, stage, rng.choice)
    moment = rng.uniform(0, laboratory.seconds(stage))
    up = project.up(port := free_port())
    url = f"http://127.0.0.1:{port}/api"
    with _ended(up):
        wait_for(lambda: "Ctrl-C stops" in up.text or up.process.poll() is not None, START_SECONDS)
        deployment = ask(url, "/deployments/name/recipe/full")["id"]
        run = ask(url, f"/deployments/{deployment}/create_flow_run", {"parameters": {"until": stage}})["id"]
        if not _reached(project, up, moment):
            return f"no stage began: {up.text[-400:]}"
        worker = up.child("prefect", "worker", "start")
        assert worker is not None
        worker.kill()
        status = up.end()
        if status != 1 or "Start `up` again" not in up.text:
            return f"`up` ended with {status}: {up.text[-400:]}"
        if left := up.orphans():
            return f"left {', '.join(left)}"
    return _marked_and_retried(project, port, url, run)


def _marked_and_retried(project: Project, port: int, url: str, run: str) -> str:
    def state() -> str:
        return ask(url, f"/flow_runs/{run}")["state_type"]

    kept = project.made()
    up = project.up(port)
    with _ended(up):
        wait_for(lambda: "Ctrl-C stops" in up.text or up.process.poll() is not None, START_SECONDS)
        if state() != "COMPLETED":
            if not wait_for(lambda: state() in ("CRASHED", "FAILED"), _SILENT_SECONDS):
                return f"the run is still {state()}"
            ask(url, f"/flow_runs/{run}/set_state", {"state": _RETRY, "force": True})
        if not wait_for(lambda: state() == "COMPLETED", END_SECONDS):
            return f"the retry is {state()}"
    return _nothing_made_again(project, kept) or same(project.laboratory, project.trial)


_RETRY = {"type": "SCHEDULED", "name": "AwaitingRetry"}

SERVER_KINDS: dict[str, Kind] = {
    "server killed": _while_running(_kill_server),
    "server lost for good": _configured_server_lost,
    "database locked": _while_running(_lock_database),
    "database lost": _database_lost,
    "two flows at one key": _two_flows,
    "worker of up killed": _worker_killed,
}


@contextmanager
def _ended(command: Command) -> Generator[None]:
    """Leave nothing running of a command, whatever happens."""
    try:
        yield
    finally:
        command.look()
        if command.process.poll() is None:
            command.process.terminate()
            try:
                command.process.wait(60)
            except subprocess.TimeoutExpired:
                command.process.kill()


def _reached(project: Project, command: Command, moment: float) -> bool:
    """Wait until the command's stages work, and `moment` seconds more; return whether it still runs then."""
    if not project.wait_for_work(command):
        return False
    time.sleep(moment)
    command.look()
    return command.process.poll() is None


def _outcome(project: Project, run: Command, *, hit: bool) -> str:
    """Wait for the run's end, go on with it if it did not come through, and compare."""
    status = run.end()
    if left := run.orphans():
        return f"left {', '.join(left)}"
    if status != 0:
        message = run.text.rpartition("\nerror: ")[2]  # what the libraries log before is not ours
        if message == run.text or not any(remedy in message for remedy in REMEDIES):
            return f"ended with {status} and no clear way on: {run.text[-600:]}"
        kept = project.made()
        again = project.run()
        with _ended(again):
            if again.end() != 0:
                return f"not gone on with: {again.text[-600:]}"
        if problem := _nothing_made_again(project, kept):
            return problem
    outcome = same(project.laboratory, project.trial)
    return outcome if hit or outcome != MENDED else f"{MISSED}; {outcome}"


def _nothing_made_again(project: Project, kept: dict[str, str]) -> str:
    now = project.made()
    again = [address for address, started in kept.items() if now.get(address) != started]
    return f"made again: {', '.join(again)}" if again else ""
