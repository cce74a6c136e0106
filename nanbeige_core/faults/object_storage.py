"""A real S3 server to break: rclone serving a folder over the S3 protocol, with signed requests and multipart."""

import os
import shutil
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

import fsspec

KEY, SECRET, BUCKET = "testaccesskey", "wJalrXUtnFEMIbPxRfiCY", "bucket"


def rclone() -> str | None:
    """Return the program, from this environment or the machine."""
    own = Path(sys.executable).with_name("rclone")
    return str(own) if own.exists() else shutil.which("rclone")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ObjectStorage:
    """The server: started on a free port, killed and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        (folder / BUCKET).mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        """Return the server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return what a user sets: address, credentials, and that this server knows no checksum trailers."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "AWS_MAX_ATTEMPTS": "2",
        }

    @contextmanager
    def serving(self) -> Generator[None]:
        """Serve to this process: its environment names the server, and no file system of another one is left in it.

        fsspec keeps one file system per set of arguments, and the server's address is none of them.
        """
        s3 = fsspec.get_filesystem_class("s3")
        before = {name: os.environ.get(name) for name in self.environment}
        self.start()
        try:
            os.environ.update(self.environment)
            s3.clear_instance_cache()
            yield
        finally:
            self.kill()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            s3.clear_instance_cache()

    def start(self, *, bytes_per_second: int | None = None) -> None:
        """Start the server and wait until it answers; with a limit it is slow enough to be killed amid an upload."""
        program = rclone()
        assert program is not None
        limit = ["--bwlimit", f"{bytes_per_second}B"] if bytes_per_second else []
        self.process = subprocess.Popen(
            [program, "serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{KEY},{SECRET}", *limit]
            + ["--config", os.devnull, str(self.folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url, timeout=2).close()
            except urllib.error.HTTPError:  # it answers: refused without a signature
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("the S3 server did not start")

    def kill(self) -> None:
        """Kill the server; its data stay."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
