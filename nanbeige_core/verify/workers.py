"""Worker processes that may hang, grow or die without harm: each request has a deadline, after it the worker is killed.

A worker is a command that writes one `ready` line, then answers each JSON line with one JSON line. The deadline of a
request starts when a worker that is ready receives it, so neither start-up nor queueing eats it.
"""

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

READY_SECONDS = 120.0
REPLY_BYTES = 16 << 20


class WorkerLost(RuntimeError):
    """A worker was killed at its deadline, or died, or answered garbage; `reason` says which.

    `spent` means that the request used up its own processor time, so that trying again cannot help.
    """

    def __init__(self, reason: str, *, spent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.spent = spent


class Worker:
    """One child process and the pipe to it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._pending = b""
        try:
            self._read_line(READY_SECONDS)
        except WorkerLost as error:
            self.kill()
            raise WorkerLost(f"a worker did not start: {error.reason} ({' '.join(command)})") from error

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send one request and return the reply; raise WorkerLost after `seconds`. The worker is then useless."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._read_line(seconds))
        except (OSError, ValueError) as error:
            raise WorkerLost(f"the worker broke off: {error}") from error

    def kill(self) -> None:
        """Kill the worker's whole session and reap it."""
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # a half-written request whose reader is gone
                    pipe.close()

    def _read_line(self, seconds: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        parts = [self._pending]
        while b"\n" not in parts[-1]:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise WorkerLost(f"no reply within {seconds:g} s")
            part = os.read(descriptor, 1 << 20)
            if not part:
                end = _end_of(self._process)
                raise WorkerLost(f"the worker died ({end})", spent=end == "SIGXCPU")
            parts.append(part)
            if sum(map(len, parts)) > REPLY_BYTES:
                raise WorkerLost(f"a reply is longer than {REPLY_BYTES} bytes")
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line


def _end_of(process: "subprocess.Popen[bytes]") -> str:
    code = process.wait(timeout=5)
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class WorkerPool:
    """A fixed number of workers; replaces what it had to kill. Use as a context manager."""

    def __init__(self, command: Sequence[str], *, workers: int, recycle: int = 2000) -> None:
        """Start nothing yet; a worker starts at its first request and is replaced after `recycle` of them."""
        self._command = list(command)
        # one thread each: many workers with a thread pool of their own would overload the machine
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONHASHSEED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._recycle = recycle
        self._slots: SimpleQueue[tuple[Worker | None, int]] = SimpleQueue()
        self._alone = threading.Lock()
        self._threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._slots.put((None, 0))
        self._workers = workers

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        for _slot in range(self._workers):
            worker, _used = self._slots.get()
            if worker is not None:
                worker.kill()

    def map(self, requests: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any] | WorkerLost]:
        """Answer all requests in order; a request whose worker is lost twice answers with the WorkerLost."""
        return list(self._threads.map(lambda request: self._ask(request, seconds), requests))

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | WorkerLost:
        try:
            return self._ask_once(request, seconds)
        except WorkerLost as first:
            if first.spent:
                return first
            with self._alone:  # again with one retry at a time, so that load is less likely to be the reason
                try:
                    return self._ask_once(request, seconds)
                except WorkerLost as error:
                    return error

    def _ask_once(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        worker, used = self._slots.get()
        try:
            if worker is not None and used >= self._recycle:
                worker.kill()
                worker = None
            if worker is None:
                worker, used = Worker(self._command, self._environment), 0
            reply = worker.ask(request, seconds)
        except WorkerLost:
            if worker is not None:
                worker.kill()
            worker, used = None, -1
            raise
        finally:
            self._slots.put((worker, used + 1))
        return reply
