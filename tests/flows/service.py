"""A real `nanbeige up` for tests: its own project folder, database, store and port, and a recipe of two stages."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from flows.faults import project

_ROOT = Path(__file__).resolve().parent.parent.parent
_START_SECONDS = 240


def write_recipe(folder: Path) -> Path:
    """Write a corpus of 120 small documents and a recipe that reads and tags it, with one sweep and its schedule."""
    texts = [
        f"Document {n} about topic {n % 7}. "
        + " ".join(f"The quick brown fox number {n * k % 97} jumps over lazy dog {k}." for k in range(6))
        for n in range(120)
    ]
    (folder / "mine.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    source = {"type": "path", "path": str(folder / "mine.jsonl"), "category": "web", "language": "en"}
    tagging = {"annotated_documents": 60, "hash_buckets": 256}
    tree = {
        "recipe": "two stages",
        "shared": {"seed": 1},
        "stages": {
            "ingest": {"config": {"sources": [source], "seed": "${shared.seed}"}},
            "quality_tagging": {"in": {"corpus": "ingest"}, "config": tagging},
        },
        "profiles": {"laptop": {"title": "small"}},
        "sweeps": {
            "buckets": {
                "title": "features of the student",
                "metric": "quality_tagging.outscores_damaged_copy",
                "seeds": [1],
                "arms": [{"name": "few"}, {"name": "more", "set": ["quality_tagging.hash_buckets=512"]}],
            }
        },
        "schedules": {"nightly-buckets": {"cron": "0 2 * * *", "sweep": "buckets"}},
    }
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps(tree))
    return path


class Service:
    """Start, ask, stop and kill one `up`."""

    def __init__(self, folder: Path, template: Path) -> None:
        """Use a copy of an already migrated Prefect database, which saves half a minute of processor time."""
        self.folder = folder
        self.home = folder / "prefect"
        self.home.mkdir()
        with sqlite3.connect(template) as source, sqlite3.connect(self.home / "prefect.db") as target:
            source.backup(target)
        self.file = write_recipe(folder)
        self.store = folder / "store"
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_URL", "PREFECT_UI_URL")}
        return {**kept, "PREFECT_HOME": str(self.home), "PYTHONPATH": str(_ROOT)}

    def command(self, *arguments: str, home: Path | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.folder,
            env={**self.environment(), "PREFECT_HOME": str(home or self.home)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def hold(self, code: str) -> "subprocess.Popen[str]":
        """Start a process that prints a line and ends when its standard input is closed."""
        return subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def arguments(self, port: int) -> list[str]:
        return ["up", "--file", str(self.file), "--store", str(self.store), "--port", str(port)]

    def ensure(self) -> None:
        """Start `up` unless it runs, and wait until it says where its UI is."""
        if self.url and self.process is not None and self.process.poll() is None:
            return
        from flows.server import free_port

        self.url = ""
        output = self.folder / "up.txt"
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *self.arguments(free_port())],
                cwd=self.folder,
                env=self.environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        wait_for(lambda: "Ctrl-C stops" in output.read_text() or self.process.poll() is not None, _START_SECONDS)
        assert self.process.poll() is None, output.read_text()
        line = next(line for line in output.read_text().splitlines() if line.startswith("Prefect UI:"))
        self.url = line.removeprefix("Prefect UI: ").removesuffix("/v2/deployments")

    def processes(self) -> list[psutil.Process]:
        """Return `up` and everything it started."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def end(self, number: signal.Signals) -> list[psutil.Process]:
        """Send `up` a signal and return which of its processes are still there a minute later."""
        family = self.processes()
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=120)
        return psutil.wait_procs(family, timeout=60)[1]

    def ask(self, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
        """Call the server's API: GET without a body, else POST."""
        return project.ask(f"{self.url}/api", path, body, method)

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask(f"/deployments/name/recipe/{name}")

    def ended(self, run: str, seconds: float = 240) -> dict[str, Any]:
        """Wait for a flow run to end and return it."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.ask(f"/flow_runs/{run}")["state_type"] in final, seconds)
        return self.ask(f"/flow_runs/{run}")


def wait_for(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until a condition holds; fail when it does not in time."""
    assert project.wait_for(condition, seconds), f"did not happen within {seconds} s"
