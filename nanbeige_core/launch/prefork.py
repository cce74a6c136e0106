"""A process that has imported what stages need and forks a worker for each: a stage then starts in milliseconds.

Importing torch, Megatron and transformers costs several CPU-seconds, which every small stage would pay anew. The
server is single-threaded and never computes, so forking it is safe; a worker it forks runs what
`python -m nanbeige_core.launch.worker` runs. Client and server speak JSON lines over the server's stdin and stdout.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from nanbeige_core.launch.worker import die_with_parent, main, set_threads
from nanbeige_core.stages import STAGES

ALWAYS = (
    "nanbeige_core.launch.ranks",
    "nanbeige_core.report.stage_report",
    "torch.distributed.launcher.api",
    # imported where they are used, which is in every stage: most of a second of each
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pyarrow.dataset",
)
"""Modules that workers need whatever their stage is."""


class WorkerProcess(Protocol):
    """What `execute` needs of a worker, however it was started."""

    @property
    def returncode(self) -> int | None:
        """Return the exit status, None while it runs, -N after signal N."""
        ...

    def poll(self) -> int | None:
        """Return `returncode` after looking."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal, nothing if it has ended."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, nothing if it has ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        ...


class ForkedWorker:
    """A worker that the server forked."""

    def __init__(self) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self._started = threading.Event()
        self._ended = threading.Event()

    def started(self, pid: int) -> None:
        """Note the process id."""
        self.pid = pid
        self._started.set()

    def ended(self, status: int) -> None:
        """Note the exit status."""
        self.returncode = status
        self._started.set()
        self._ended.set()

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """Send a signal, nothing if it has ended."""
        self._started.wait()
        if self.returncode is None:
            try:
                os.kill(self.pid, sig)
            except ProcessLookupError:
                self._ended.wait(1)

    def kill(self) -> None:
        """Send SIGKILL, nothing if it has ended."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout) or self.returncode is None:
            raise subprocess.TimeoutExpired("forked worker", timeout or 0.0)
        return self.returncode


class Prefork:
    """The client's side: a server for stages that all run with `threads` threads; a context manager."""

    def __init__(self, uses: set[str], *, threads: int) -> None:
        command = [sys.executable, "-m", __name__, str(os.getpid()), str(threads), *sorted(uses)]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._lock = threading.Lock()
        self._workers: list[ForkedWorker] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, name="prefork", daemon=True)
        self._reader.start()

    @property
    def ready(self) -> bool:
        """Return whether everything is imported and the server lives: else a worker is better started directly."""
        return self._ready.is_set() and self._server.poll() is None

    def wait_ready(self, timeout: float) -> bool:
        """Wait until `ready`, at most `timeout` seconds; return whether it is."""
        self._ready.wait(timeout)
        return self.ready

    def start(self, job: Path, log: Path) -> ForkedWorker:
        """Fork a worker for a job file, its output going to `log`. Raises OSError when the server is gone."""
        worker = ForkedWorker()
        with self._lock:
            self._workers.append(worker)
            request = {"id": len(self._workers) - 1, "job": str(job), "log": str(log)}
            stream = self._server.stdin
            if stream is None:
                raise OSError("the prefork server has no input")
            stream.write(json.dumps(request) + "\n")
            stream.flush()
        return worker

    def close(self) -> None:
        """End the server; workers still running are killed with it."""
        if self._server.stdin is not None:
            self._server.stdin.close()
        try:
            self._server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._reader.join(timeout=5)

    def __enter__(self) -> "Prefork":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> None:
        for line in self._server.stdout or ():
            answer: dict[str, Any] = json.loads(line)
            if "id" not in answer:
                self._ready.set()
            elif "pid" in answer:
                self._workers[answer["id"]].started(answer["pid"])
            else:
                self._workers[answer["id"]].ended(answer["status"])
        # the server is gone and took its workers along
        for worker in self._workers:
            if worker.returncode is None:
                worker.ended(-signal.SIGKILL)


def serve(parent: int, threads: int, uses: list[str]) -> None:
    """Import what the stage types `uses` need, then fork a worker for each line on stdin until it closes."""
    die_with_parent(parent)
    set_threads(threads)
    for name in ALWAYS:
        import_module(name)
    for name in uses:
        STAGES[name].function()
    context = get_context("fork")
    running: dict[int, tuple[int, Any]] = {}
    _answer({"ready": True})
    buffer = b""
    while True:
        for item in wait([sys.stdin.fileno(), *running]):
            if item == sys.stdin.fileno():
                received = os.read(sys.stdin.fileno(), 1 << 16)
                if not received:
                    for _, process in running.values():
                        process.kill()
                    return
                *lines, buffer = (buffer + received).split(b"\n")
                for line in lines:
                    request = json.loads(line)
                    process = context.Process(target=run_forked, args=(request["job"], request["log"], os.getpid()))
                    process.start()
                    running[_sentinel(process)] = (request["id"], process)
                    _answer({"id": request["id"], "pid": process.pid})
            elif isinstance(item, int):
                number, process = running.pop(item)
                process.join()
                if item != process.sentinel:
                    os.close(item)
                _answer({"id": number, "status": process.exitcode})


def _sentinel(process: Any) -> int:
    """Return what becomes readable when the process ends; its own pipe would stay open in a child that outlives it."""
    return os.pidfd_open(process.pid) if hasattr(os, "pidfd_open") else process.sentinel


def _answer(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def run_forked(job: str, log: str, parent: int) -> None:
    """Be the worker of a job file in a process that `parent` forked; ends the process."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(main(job, parent))


if __name__ == "__main__":
    # Ctrl-C in a terminal reaches the whole group: the client decides what ends, and closes the pipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
