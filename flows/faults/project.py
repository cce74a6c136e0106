"""A project folder as a person has one: a store, a Prefect home of its own, and `nanbeige` commands that run in it."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil

from flows.parameters import ROOT
from nanbeige_core.faults.laboratory import Laboratory, Trial, runs

END_SECONDS = 600.0
_GONE_SECONDS = 20.0
_LOOK_SECONDS = 2.0
_BUSY_SECONDS = 60.0
_NOT_INHERITED = ("PREFECT_API_URL", "PREFECT_UI_URL", "PREFECT_HOME")


class Command:
    """A running `nanbeige` command and everything it has started."""

    def __init__(self, project: "Project", arguments: list[str], environment: dict[str, str]) -> None:
        self._output = project.folder / f"output-{time.monotonic_ns()}.txt"
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        own = {"PREFECT_HOME": str(project.home), "PYTHONPATH": str(ROOT)}
        with self._output.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli", *arguments],
                cwd=project.folder,
                env={**inherited, **own, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self._family: dict[int, psutil.Process] = {}

    @property
    def text(self) -> str:
        """Return what the command has printed."""
        return self._output.read_text(errors="replace")

    def end(self) -> int:
        """Wait for the command's end and return its status; one that does not come is killed."""
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            self.look()
            with suppress(subprocess.TimeoutExpired):
                return self.process.wait(_LOOK_SECONDS)
        self.process.kill()
        return self.process.wait()

    def child(self, *words: str) -> psutil.Process | None:
        """Return the process the command has started whose command line has these words, None if there is none."""
        for process in self._children():
            try:
                line = " ".join(process.cmdline())
            except psutil.NoSuchProcess:
                continue
            if " ".join(words) in line and "tied.py" not in line:
                return process
        return None

    def look(self) -> None:
        """Remember the command's processes, to see that none outlives it."""
        self._family |= {process.pid: process for process in self._children()}

    def orphans(self) -> list[str]:
        """Return which of the processes that were looked at still run a while after the command."""
        left = list(self._family.values())
        wait_for(lambda: not any(map(runs, left)), _GONE_SECONDS)
        return [f"process {process.pid}" for process in left if runs(process)]

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


class Project:
    """The folder. Its store holds what `trial.stage` reads, but for one artifact, which a run makes first."""

    def __init__(self, laboratory: Laboratory, stage: str, missing: Callable[[list[str]], str]) -> None:
        self.laboratory = laboratory
        trial = laboratory.trial(stage)
        above = sorted(laboratory.recipe.stages[stage].inputs.values())
        self.trial: Trial = replace(trial, missing=missing(above)) if above else trial
        self.folder = self.trial.store.cache.parent
        self.home = self.folder / "prefect"
        self.home.mkdir(parents=True)
        with closing(sqlite3.connect(_template(laboratory))) as source, closing(sqlite3.connect(self.database)) as own:
            source.backup(own)
        if self.trial.missing:
            manifest = laboratory.manifest(self.trial.store, self.trial.missing)
            shutil.rmtree(self.trial.store.local_path(manifest))

    @property
    def database(self) -> Path:
        """Return the file of the Prefect server's database."""
        return self.home / "prefect.db"

    def run(self, **environment: str) -> Command:
        """Start `nanbeige run` until the trial's stage."""
        return Command(self, ["run", "--until", self.trial.stage, *self._places()], environment)

    def up(self, port: int) -> Command:
        """Start `nanbeige up` on a port."""
        return Command(self, ["up", "--port", str(port), *self._places()], {})

    def _places(self) -> list[str]:
        return ["--file", str(self.laboratory.folder / "pipelines.yaml"), "--store", str(self.trial.store.root)]

    def wait_for_work(self, command: Command) -> bool:
        """Wait until a stage works; return whether one does before the command ends."""
        wait_for(lambda: command.process.poll() is not None or any(self._jobs()), END_SECONDS)
        return command.process.poll() is None

    def made(self) -> dict[str, str]:
        """Return when each artifact of the store was begun: one that is kept keeps it."""
        return {manifest.reference.address: manifest.started for manifest in self.trial.store.manifests()}

    def _jobs(self) -> Iterator[Path]:
        return Path(self.trial.store.root).glob("*/*.work/.control/job.json")


def _template(laboratory: Laboratory) -> Path:
    """Return a migrated, empty database: migrating one takes half a minute of processor time."""
    home = laboratory.folder / "prefect-template"
    path = home / "prefect.db"
    if not path.exists():
        home.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
        subprocess.run(command, env={**os.environ, "PREFECT_HOME": str(home)}, check=True, capture_output=True)
    return path


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait until a condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


def ask(url: str, path: str, body: dict[str, Any] | None = None, method: str = "") -> Any:
    """Call a Prefect server's API: GET without a body, else POST; one whose database is busy is asked again."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"content-type": "application/json"}, method=method or None)
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:  # Prefect's own client too repeats what was answered so
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                raise
        time.sleep(1)
