"""`up`: a Prefect server, a worker and the deployments, until Ctrl-C or SIGTERM; nothing is left running.

Order of stopping: running stages stop at their resume points and their runs end, then the worker, then the server.
When this process is killed outright, the kernel tells each of the others (flows/tied.py).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from flows.parameters import ROOT
from flows.reports import report_server
from flows.server import free_port, prefect_environment, start_server
from flows.server_process import last_lines, stop
from flows.tied import tied_command
from nanbeige_core.cores import usable_cores
from nanbeige_core.errors import StageError
from nanbeige_core.recipe.load import load_recipe_file

_RUNS_AT_ONCE = 4  # plans and cached runs need no core; stages share the core slots
_POLL_SECONDS = 0.5
_RUN_STOP_SECONDS = 40
_WORKER_STOP_SECONDS = 10


def serve(*, file: Path, store: str, port: int | None, cores: int | None, say: Callable[[str], None]) -> None:
    """Run server, worker and deployments until Ctrl-C or SIGTERM; a server that ends by itself is started again.

    Raises RecipeError for a recipe that cannot be loaded, a taken port and a server already running on the same
    database; StageError when the worker ends by itself, or the server does not come back.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)  # a shell that starts `up` in the background has it ignored
    try:
        _serve(file=file, store=store, port=port, cores=cores, say=say)
    except KeyboardInterrupt:
        say("Stopped. Schedules, runs and artifacts are kept; the next `up` goes on with them.")


def _serve(*, file: Path, store: str, port: int | None, cores: int | None, say: Callable[[str], None]) -> None:
    recipe_file = load_recipe_file(file)
    location = store if "://" in store else str(Path(store).absolute())
    home = prefect_environment()
    say("Starting the Prefect server ...")
    with ExitStack() as stack:
        server = stack.enter_context(start_server(port))
        url = server.url
        from flows.deployments import POOL, register

        names = register(recipe_file, path=file.absolute(), store=location, cores=cores or usable_cores())
        if "://" not in store:
            stack.enter_context(_reports(Path(location), url))
        worker = stack.enter_context(_worker(POOL, home, say))
        _wait_until_ready(POOL, worker)
        ui = url.removesuffix("/api")
        say(f"Prefect UI: {ui}/v2/deployments")
        say(f"Deployments: {', '.join(names)}; artifacts in {location}")
        for name, entry in recipe_file.schedules.items():
            say(f"Schedule {name}: {entry.cron} {entry.timezone}, {entry.sweep or entry.profile}")
        say("Ctrl-C stops; schedules stay as they are and go on with the next `up`.")
        while worker.poll() is None and server.poll() is None:
            time.sleep(_POLL_SECONDS)
        name, status = ("worker", worker.returncode) if worker.returncode is not None else ("server", server.poll())
        log = home / f"{name}.log"
        raise StageError(
            f"the Prefect {name} ended by itself with status {status}. Start `up` again; finished stages "
            f"are kept. Its last log lines ({log}):\n{last_lines(log)}"
        )


@contextmanager
def _reports(root: Path, api: str) -> Generator[None]:
    """Serve the store's reports and tell the tasks where."""
    from prefect.variables import Variable

    from tasks.publish import REPORTS_VARIABLE

    root.mkdir(parents=True, exist_ok=True)
    wanted = int(api.split(":")[2].split("/")[0]) + 1  # the same address at the next `up`, so that old links work
    try:
        stack = ExitStack()
        address = stack.enter_context(report_server(root, wanted))
    except OSError:
        stack = ExitStack()
        address = stack.enter_context(report_server(root, free_port()))
    with stack:
        Variable.set(REPORTS_VARIABLE, {"root": str(root), "url": address}, overwrite=True)
        try:
            yield
        finally:
            Variable.unset(REPORTS_VARIABLE)


@contextmanager
def _worker(pool: str, home: Path, say: Callable[[str], None]) -> Generator["subprocess.Popen[bytes]"]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    command += ["--limit", str(_RUNS_AT_ONCE), "--name", "up"]
    with (home / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            # a worker that is told to stop waits for its runs; one whose `up` is gone must not, and the runs follow it
            tied_command(command, "KILL", os.getpid()),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_RUNNER_POLL_FREQUENCY": "2"},
            start_new_session=True,
        )
    try:
        yield worker
    finally:
        _stop_runs(worker, say)
        stop(worker, signal.SIGTERM, _WORKER_STOP_SECONDS)


def _wait_until_ready(pool: str, worker: "subprocess.Popen[bytes]") -> None:
    """Wait for the worker's first sign of life, so that what is submitted now starts now."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkPoolStatus

    with get_client(sync_client=True) as client:
        while worker.poll() is None and client.read_work_pool(pool).status != WorkPoolStatus.READY:
            time.sleep(_POLL_SECONDS)


def _stop_runs(worker: "subprocess.Popen[bytes]", say: Callable[[str], None]) -> None:
    """Stop the worker's runs at their resume points, while it is there to report how they ended."""
    if worker.poll() is not None:
        return
    runs = psutil.Process(worker.pid).children()
    if runs:
        say(
            f"Stopping {len(runs)} running flow run(s) ... finished stages and resume points are kept; "
            "press Retry in the UI, or run the same again, to go on."
        )
    for run in runs:
        run.terminate()
    psutil.wait_procs(runs, timeout=_RUN_STOP_SECONDS)
