"""The worker processes of a flow run: forked from a server that has imported everything, where that pays."""

import signal
import subprocess
import time
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager, suppress

from nanbeige_core.contract import Runtime
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.prefork import Prefork, WorkerProcess
from nanbeige_core.launch.start import start_worker

_STOP_SECONDS = 20
_FORKED = ("process", "elastic")
_FEWEST = 2
"""Stages a server must serve: for one alone, importing in the worker itself is as fast."""


class Workers:
    """Start the workers of one flow run: one prefork server for each number of threads (fixed when torch loads)."""

    def __init__(self) -> None:
        self._servers: dict[int, tuple[Prefork, set[str]]] = {}
        self._running: list[WorkerProcess] = []

    @contextmanager
    def opened(self, stages: Iterable[tuple[str, Runtime]]) -> Generator[None]:
        """Serve stages, given as (type, runtime), until the block ends."""
        by_threads: dict[int, list[str]] = {}
        for uses, runtime in stages:
            if runtime.launcher in _FORKED:
                by_threads.setdefault(runtime.threads, []).append(uses)
        with ExitStack() as stack:
            for threads, uses in by_threads.items():
                if len(uses) >= _FEWEST:
                    server = stack.enter_context(Prefork(set(uses), threads=threads))
                    self._servers[threads] = (server, set(uses))
            try:
                yield
            finally:
                self._servers = {}

    def start(self, file: JobFile) -> WorkerProcess:
        """Fork a worker for a job, or start a new interpreter while no server is ready for it."""
        worker = self._start(file)
        self._running = [other for other in self._running if other.poll() is None] + [worker]
        return worker

    def stop(self) -> None:
        """Tell every running worker to stop at its resume point, and wait until they have."""
        running = [worker for worker in self._running if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in running:
            with suppress(subprocess.TimeoutExpired):
                worker.wait(timeout=max(deadline - time.monotonic(), 0))

    def _start(self, file: JobFile) -> WorkerProcess:
        server, uses = self._servers.get(file.runtime.threads, (None, set[str]()))
        if file.runtime.launcher in _FORKED and server is not None and server.ready and file.uses in uses:
            return server.start(file.path, file.log)
        return start_worker(file)


WORKERS = Workers()
