"""One Prefect server per project folder: started when none runs, shared while it does, stopped cleanly afterwards.

Everything it keeps lies in the project's `.prefect` folder. Two servers must not share its database, so whoever starts
one holds `server.lock`; who only uses it holds `users.lock` shared, and the starter waits for them before stopping.
The kernel frees both locks when a process dies, so nothing is ever stale. Call `prefect_environment` before Prefect is
imported.
"""

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flows.parameters import ROOT
from flows.server_process import START_SECONDS, ServerProcess, is_healthy
from nanbeige_core.errors import RecipeError, StageError
from tasks.server_gone import is_gone

DEFAULT_PORT = 4200
_SEND_SECONDS = 20
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLIENT_MAX_RETRIES": "6",  # two minutes in all: a server that is started again is back by then
}


def prefect_environment(home: Path | None = None) -> Path:
    """Set Prefect's home and quiet its telemetry, leaving what the user has set alone; return the home."""
    os.environ.setdefault("PREFECT_HOME", str(home or ROOT / ".prefect"))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    return Path(os.environ["PREFECT_HOME"])


@contextmanager
def prefect_server(port: int | None = None) -> Generator[str]:
    """Yield the API URL of a running server: the configured one, one that runs in this folder, or a new one.

    A server started here is stopped at the end. Raises RecipeError when it does not answer in time, and StageError
    when the block found it gone for good.
    """
    with _any_server(port) as url, _told_when_lost(url):
        yield url


@contextmanager
def _any_server(port: int | None) -> Generator[str]:
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
def start_server(port: int | None = None) -> Generator[ServerProcess]:
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
def _server(home: Path, port: int | None, lock: IO[str]) -> Generator[ServerProcess]:
    _write(lock, {})
    server = ServerProcess(_port(port), home / "server.log")
    try:
        server.wait_ready()
        _write(lock, {"url": server.url, "pid": os.getpid()})
        os.environ["PREFECT_API_URL"] = server.url
        os.environ["PREFECT_UI_URL"] = f"{server.url.removesuffix('/api')}/v2"
        yield server
    finally:
        _send_queued()
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("PREFECT_UI_URL", None)
        _wait_for_users(home)
        _write(lock, {})
        server.stop()


@contextmanager
def _told_when_lost(url: str) -> Generator[None]:
    """Say in place of a client's error what became of the run and what to do."""
    try:
        yield
    except Exception as error:
        if not is_gone(error):
            raise
        raise StageError(
            f"the Prefect server at {url} does not answer ({type(error).__name__}: {error}), so this run cannot be "
            "ended in order. What it made is in the store. Run the same command again, once a server of yours answers: "
            "it goes on from there."
        ) from error


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
            _send_queued()
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
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        url = _state(home).get("url")
        if url and is_healthy(url):
            return url
        with _lock(home / "server.lock") as free:
            if free is not None:
                return None
        time.sleep(0.3)
    raise RecipeError(
        f"another command holds {home / 'server.lock'}, but its Prefect server did not answer within "
        f"{START_SECONDS} s. Stop that command, or set PREFECT_API_URL to a server of yours."
    )


def _state(home: Path) -> dict[str, str]:
    text = (home / "server.lock").read_text()
    return json.loads(text) if text else {}


def _write(lock: IO[str], state: dict[str, str | int]) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(json.dumps(state))
    lock.flush()


def _send_queued() -> None:
    """Send the log lines and events this process still has queued, before the server goes away.

    At exit Prefect would wait for a server that is no longer there, once for each of them.
    """
    handlers, events = sys.modules.get("prefect.logging.handlers"), sys.modules.get("prefect.events.worker")
    if handlers is not None:
        handlers.APILogHandler().flush()
    if events is not None:
        events.EventsWorker.drain_all(timeout=_SEND_SECONDS)


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
