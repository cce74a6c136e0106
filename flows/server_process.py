"""The process of a Prefect server, started again when it ends by itself: a run outlives its server.

The same port and database mean that clients, which repeat their requests for a while, find it again. A server that
does not come back is given up.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from flows.tied import tied_command
from nanbeige_core.errors import RecipeError

START_SECONDS = 240
_STOP_SECONDS = 15
_LOOK_SECONDS = 0.5


class ServerProcess:
    """A Prefect server on a port of 127.0.0.1, and the thread that guards it; its output goes to `log`."""

    def __init__(self, port: int, log: Path) -> None:
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}/api"
        self._stopping = threading.Event()
        self._given_up = False
        log.unlink(missing_ok=True)
        self._process = self._start()
        self._guard = threading.Thread(target=self._start_again_when_it_ends, name="server", daemon=True)

    @property
    def pid(self) -> int:
        """Return the process id of the server that runs now."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the server answers, and guard it from then on. Raises RecipeError when it does not."""
        self._wait_until_healthy()
        self._guard.start()

    def poll(self) -> int | None:
        """Return how the server ended; None while it runs or is being started again."""
        return self._process.poll() if self._given_up else None

    def stop(self) -> None:
        """End the server: asked first, killed if it has not ended in time."""
        self._stopping.set()
        if self._guard.is_alive():
            self._guard.join()
        stop(self._process, signal.SIGTERM, _STOP_SECONDS)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self.port)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                tied_command(command, "TERM", os.getpid()),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PREFECT_SERVER_UI_API_URL": self.url},  # its default is right on port 4200 only
                start_new_session=True,  # Ctrl-C is for the command alone, which then stops things in order
            )

    def _start_again_when_it_ends(self) -> None:
        """Guard the server until it is stopped; the kernel ties a server started here to this thread's life."""
        while not self._stopping.wait(_LOOK_SECONDS):
            if self._process.poll() is None:
                continue
            print(
                f"The Prefect server ended with status {self._process.returncode}; it is started again. Stages go on "
                f"meanwhile. Its log: {self.log}",
                file=sys.stderr,
            )
            self._process = self._start()
            try:
                self._wait_until_healthy()
            except RecipeError as error:
                print(error, file=sys.stderr)
                self._given_up = True
                self._stopping.wait()

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None and not self._stopping.is_set():
            if is_healthy(self.url) and _listens(self._process.pid, self.port):
                return
            time.sleep(0.3)
        if self._stopping.is_set():
            return
        status = self._process.poll()
        raise RecipeError(
            f"the Prefect server at {self.url} "
            + (f"ended with status {status}" if status is not None else "did not answer")
            + f" within {START_SECONDS} s. Its last log lines ({self.log}):\n{last_lines(self.log)}\n"
            f"If its database is damaged, delete {self.log.with_name('prefect.db*')}: it holds what the UI shows, no "
            "artifact. To use a server of yours instead, set PREFECT_API_URL."
        )


def stop(process: "subprocess.Popen[bytes]", first: signal.Signals, seconds: float) -> None:
    """Send a process a signal, and kill it if it has not ended in time."""
    if process.poll() is not None:
        return
    process.send_signal(first)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_lines(path: Path, count: int = 15) -> str:
    """Return the last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])


def is_healthy(url: str) -> bool:
    """Tell whether the server at an API URL answers."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _listens(pid: int, port: int) -> bool:
    """Tell whether it is this server that answers: another program may have taken the port since it was chosen."""
    try:
        server = psutil.Process(pid)
        connections = [c for process in (server, *server.children()) for c in process.net_connections("tcp")]
    except psutil.NoSuchProcess:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr[1] == port for c in connections if c.laddr)
