"""A run in a process of its own, to be killed whatever it is doing: looking, starting, sealing, publishing.

It is forked from a server that has imported what stages need, and forks its worker itself, so that its worker is its
child as it is in every run.
"""

import os
import subprocess
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.context import ForkProcess, ForkServerProcess
from pathlib import Path

from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.launch.execute import Order, execute
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.prefork import ALWAYS, run_forked
from nanbeige_core.launch.worker import die_with_parent, set_threads
from nanbeige_core.stages import STAGES


def start_run(uses: Iterable[str], order: Order, inputs: dict[str, ArtifactRef], store: Store) -> ForkServerProcess:
    """Start a run of one stage; the server behind it imports what the stage types `uses` need when it starts."""
    set_threads(1)  # the server takes it over: BLAS reads it when imported, and more threads round differently
    context = get_context("forkserver")
    entries = (STAGES[name].entry.partition(":")[0] for name in uses)
    context.set_forkserver_preload([*ALWAYS, __name__, *dict.fromkeys(entries)])
    process = context.Process(target=_run, args=(order, inputs, store.url, store.cache))
    process.start()
    return process


class _Worker:
    """A forked worker, as `execute` sees one."""

    def __init__(self, process: ForkProcess) -> None:
        self._process = process
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        self.returncode = self._process.exitcode
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, nothing if it has ended."""
        if self.poll() is None and self._process.pid is not None:
            os.kill(self._process.pid, sig)

    def kill(self) -> None:
        """Send SIGKILL, nothing if it has ended."""
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("forked worker", timeout or 0.0)
        return status


def _run(order: Order, inputs: dict[str, ArtifactRef], url: str, cache: Path) -> None:
    die_with_parent(os.getppid())
    execute(order, inputs, Store(url, cache), start=_fork)


def _fork(file: JobFile) -> _Worker:
    process = get_context("fork").Process(target=run_forked, args=(str(file.path), str(file.log), os.getpid()))
    process.start()
    return _Worker(process)
