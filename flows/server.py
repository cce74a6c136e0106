"""One Prefect server per project folder: started when none runs, shared while it does, stopped cleanly afterwards.

Everything it keeps lies in the project's `.prefect` folder. Two servers must not share its database, so whoever starts
one holds `server.lock`; who only uses it holds `users.lock` shared, and the starter waits for them before stopping.
The kernel frees both locks when a process dies, so nothing is ever stale. Call `prefect_environment` before Prefect is
imported.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import psutil

from flows.parameters import ROOT
from flows.tied import tied_command
from nanbeige_core.errors import RecipeError

DEFAULT_PORT = 4200
_START_SECONDS = 240
_STOP_SECONDS = 15
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


class Server(NamedTuple):
    """A Prefect server that was started here: the address of its API, and its process."""

    url: str
    process: "subprocess.Popen[bytes]"


def prefect_environment(home: Path | None = None) -> Path:
    """Set Prefect's home and quiet its telemetry, leaving what the user has set alone; return the home."""
    os.environ.setdefault("PREFECT_HOME", str(home or ROOT / ".prefect"))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    return Path(os.environ["PREFECT_HOME"])


@contextmanager
def prefect_server(port: int | None = None) -> Generator[str]:
    """Yield the API URL of a running server: the configured one, one that runs in this folder, or a new one.

    A server started here is stopped at the end. Raises RecipeError when it does not answer in time.
    """
    home = prefect_environment()
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        yield configured
        return
    while True:
        with _lock(home / "server.lock") as mine:
            if mine is not None:
                with _server(home, port, mine) as server:
                    yield server.url
                return
        with _as_user(home) as url:
            if url is not None:
                yield url
                return


@contextmanager
def start_server(port: int | None = None) -> Generator[Server]:
    """Start a server on loopback, yield it, and stop it.

    Raises RecipeError when one runs already on this folder's database, or when the port is taken.
    """
    home = prefect_environment()
    with _lock(home / "server.lock") as mine:
        if mine is None:
            running = _state(home)
            raise RecipeError(
                f"a Prefect server already uses {home}: process {running.get('pid', '?')}, "
                f"UI at {running.get('url', '?').removesuffix('/api')}/v2/dashboard. "
                "Use that one, or wait until its command has ended, or stop it with Ctrl-C there. "
                "For a second, separate one set PREFECT_HOME to another folder."
            )
        with _server(home, port, mine) as server:
            yield server


@contextmanager
def _server(home: Path, port: int | None, lock: IO[str]) -> Generator[Server]:
    _write(lock, {})
    chosen = _port(port)
    url = f"http://127.0.0.1:{chosen}/api"
    log_path = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(chosen)]
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            tied_command(command, "TERM", os.getpid()),
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PREFECT_SERVER_UI_API_URL": url},  # its default is right on port 4200 only
            start_new_session=True,  # Ctrl-C is for the command alone, which then stops things in order
        )
    try:
        _wait_until_healthy(url, chosen, server, log_path)
        _write(lock, {"url": url, "pid": os.getpid()})
        os.environ["PREFECT_API_URL"] = url
        os.environ["PREFECT_UI_URL"] = f"{url.removesuffix('/api')}/v2"
        yield Server(url, server)
    finally:
        _flush_logs()
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("PREFECT_UI_URL", None)
        _wait_for_users(home)
        _write(lock, {})
        stop(server, signal.SIGTERM, _STOP_SECONDS)


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


@contextmanager
def _lock(path: Path) -> Generator[IO[str] | None]:
    """Yield the locked file, or None when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield file


@contextmanager
def _as_user(home: Path) -> Generator[str | None]:
    """Yield the URL of the server another command runs, and keep that command from stopping it meanwhile.

    Yields None when that command has ended.
    """
    with (home / "users.lock").open("a+") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        url = _wait_for_url(home)
        if url is None:
            yield None
            return
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            _flush_logs()
            os.environ.pop("PREFECT_API_URL", None)


def _wait_for_users(home: Path) -> None:
    """Wait while other commands use this server; a second Ctrl-C ends the wait."""
    with (home / "users.lock").open("a+") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                "Another command uses this Prefect server; it stops when that one has ended (Ctrl-C: stop it now).",
                file=sys.stderr,
            )
            try:
                fcntl.flock(users, fcntl.LOCK_EX)
            except KeyboardInterrupt:
                return


def _wait_for_url(home: Path) -> str | None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        url = _state(home).get("url")
        if url and _healthy(url):
            return url
        with _lock(home / "server.lock") as free:
            if free is not None:
                return None
        time.sleep(0.3)
    raise RecipeError(
        f"another command holds {home / 'server.lock'}, but its Prefect server did not answer within "
        f"{_START_SECONDS} s. Stop that command, or set PREFECT_API_URL to a server of yours."
    )


def _state(home: Path) -> dict[str, str]:
    text = (home / "server.lock").read_text()
    return json.loads(text) if text else {}


def _write(lock: IO[str], state: dict[str, str | int]) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(json.dumps(state))
    lock.flush()


def _flush_logs() -> None:
    """Send what this process still has queued for the server, before the server goes away."""
    handlers = sys.modules.get("prefect.logging.handlers")
    if handlers is not None:
        handlers.APILogHandler().flush()


def _port(wanted: int | None) -> int:
    if wanted:
        if not _is_free(wanted):
            raise RecipeError(
                f"port {wanted} on 127.0.0.1 is taken by another program. Pass another --port, or none: then 4200 or "
                "any free one is used. To use a Prefect server that runs there, set PREFECT_API_URL."
            )
        return wanted
    return DEFAULT_PORT if _is_free(DEFAULT_PORT) else free_port()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
    return True


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _listens(pid: int, port: int) -> bool:
    """Tell whether it is this server that answers: another program may have taken the port since it was chosen."""
    server = psutil.Process(pid)
    connections = [c for process in (server, *server.children()) for c in process.net_connections("tcp")]
    return any(c.status == psutil.CONN_LISTEN and c.laddr[1] == port for c in connections if c.laddr)


def _wait_until_healthy(url: str, port: int, server: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if _healthy(url) and _listens(server.pid, port):
            return
        time.sleep(0.3)
    raise RecipeError(
        f"the Prefect server at {url} "
        + (f"ended with status {server.returncode}" if server.returncode is not None else "did not answer")
        + f" within {_START_SECONDS} s. Its last log lines ({log_path}):\n{last_lines(log_path)}\n"
        "To use a server of yours instead, set PREFECT_API_URL."
    )


def last_lines(path: Path, count: int = 15) -> str:
    """Return the last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-count:])
