"""A Prefect server for one machine: started when none is configured, stopped cleanly afterwards.

Everything it keeps lies in the project's `.prefect` folder. Call `prefect_environment` before Prefect is imported.
"""

import ctypes
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

from flows.parameters import ROOT
from nanbeige_core.errors import RecipeError

DEFAULT_PORT = 4200
_START_SECONDS = 240
_SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "240",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def prefect_environment(home: Path | None = None) -> None:
    """Set Prefect's home and quiet its telemetry, leaving what the user has set alone."""
    os.environ.setdefault("PREFECT_HOME", str(home or ROOT / ".prefect"))
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)


@contextmanager
def prefect_server(port: int | None = None) -> Generator[str]:
    """Yield the API URL of a running server: the configured one, one that `up` started, or a new one.

    A server started here is stopped at the end. Raises RecipeError when it does not answer in time.
    """
    prefect_environment()
    configured = os.environ.get("PREFECT_API_URL") or _running_server()
    if configured:
        os.environ["PREFECT_API_URL"] = configured
        yield configured
        return
    with start_server(port) as url:
        yield url


@contextmanager
def start_server(port: int | None = None) -> Generator[str]:
    """Start a server on loopback, yield its API URL, and stop it."""
    prefect_environment()
    chosen = port or _free_port()
    url = f"http://127.0.0.1:{chosen}/api"
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(chosen)]
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PREFECT_SERVER_UI_API_URL": url},  # its default is right on port 4200 only
            preexec_fn=_stop_with_parent,  # called before any thread is started here
        )
    state = home / "server.json"
    try:
        _wait_until_healthy(url, server, log_path)
        state.write_text(json.dumps({"url": url, "pid": server.pid}))
        os.environ["PREFECT_API_URL"] = url
        yield url
    finally:
        _flush_logs()
        state.unlink(missing_ok=True)
        os.environ.pop("PREFECT_API_URL", None)
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _stop_with_parent() -> None:
    """Ask the kernel to end the server when the command that started it is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _flush_logs() -> None:
    """Send what this process still has queued for the server, before the server goes away."""
    handlers = sys.modules.get("prefect.logging.handlers")
    if handlers is not None:
        handlers.APILogHandler().flush()


def _free_port() -> int:
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RecipeError("no free port on 127.0.0.1 for the Prefect server; pass --port or set PREFECT_API_URL")


def _running_server() -> str | None:
    state = Path(os.environ["PREFECT_HOME"]) / "server.json"
    if not state.exists():
        return None
    url = json.loads(state.read_text())["url"]
    return url if _healthy(url) else None


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        if _healthy(url):
            return
        time.sleep(0.3)
    tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
    raise RecipeError(
        f"the Prefect server at {url} did not answer within {_START_SECONDS} s. Its last log lines ({log_path}):\n"
        f"{tail}\nIf the port is taken, pass --port; to use a server of yours, set PREFECT_API_URL."
    )
