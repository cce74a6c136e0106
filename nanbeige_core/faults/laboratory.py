"""Where runs are broken: a finished reference run, and copies of its store in which one stage is made again.

A stage is made by the code that every run uses (`launch.execute`), in workers forked from one server, so that two
hundred kills are affordable. What counts as mended: the stage's artifact has the reference's counts and the same bytes
in every file that holds no times.
"""

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, cast

import psutil

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError
from nanbeige_core.faults.run_process import start_run
from nanbeige_core.faults.tiny import tiny_recipe
from nanbeige_core.launch.execute import Made, Order, execute
from nanbeige_core.launch.job_file import JobFile, read_json, write_json
from nanbeige_core.launch.orders import make_order
from nanbeige_core.launch.prefork import ForkedWorker, Prefork, WorkerProcess
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import PlannedStage, make_plan

RUNTIME = {"launcher": "process", "micro_batch_size": 4, "checkpoint_seconds": 0.2}
TIMED = ("report.html", "report.md", "log/", "tensorboard/", "weights/.metadata", "optimizer/.metadata")
"""Files that show times, or (torch's index of a checkpoint) hold the name of their folder and a random id.

All others, the tensors and rollouts among them, are compared byte by byte; JSON without the fields named `*seconds`.
"""
_DURATIONS = "seconds.json"
_GONE_SECONDS = 10.0
_READ_SECONDS = 0.05

Act = Callable[[ForkedWorker], None]
Start = Callable[[JobFile], WorkerProcess]


@dataclass(frozen=True)
class Trial:
    """A store with everything above `stage` but what is `missing`, and nothing of `stage`."""

    store: Store
    stage: str
    missing: str = ""


class Laboratory:
    """One recipe, its reference run, and a server that forks workers; a context manager.

    The reference run stays in the folder and is used again by the next laboratory there; what is broken does not stay.
    """

    def __init__(self, folder: Path, *, until: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.trials = folder / "trials"
        self.recipe: Recipe = load_recipe(tiny_recipe(folder, RUNTIME), profile="laptop")
        self.reference = Store(folder / "reference", folder / "cache")
        plan = make_plan(self.recipe, self.reference)
        self._fingerprints = {name: planned.fingerprint for name, planned in plan.stages.items()}
        self._references: dict[str, Manifest] = {}
        names = list(self.recipe.stages)
        self.stages = names[: names.index(until) + 1] if until else names
        self._uses = {self.recipe.stages[name].spec.uses for name in self.stages}
        self._server = Prefork(self._uses, threads=1)
        self._seconds: dict[str, float] = read_json(folder / _DURATIONS) or {}
        self._trials = 0

    def __enter__(self) -> "Laboratory":
        shutil.rmtree(self.trials, ignore_errors=True)  # of a call that was cut short
        self.trials.mkdir()
        self._server.wait_ready(300)
        for name in self.stages:
            self.make(Trial(self.reference, name))
            if self._fingerprints[name] not in self._seconds:
                self._measure(name)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.close()
        shutil.rmtree(self.trials, ignore_errors=True)

    def seconds(self, stage: str) -> float:
        """Return how long a stage takes that is made for the second time: the first compiles kernels."""
        return self._seconds[self._fingerprints[stage]]

    def came_through(self, trial: Trial) -> None:
        """Remember what an attempt from the beginning took that ended before its fault, if that is less than was known.

        A machine that was busy when the stage was measured, and is not now, would let every later fault come too late.
        """
        taken = self.manifest(trial.store, trial.stage).seconds
        if taken < self.seconds(trial.stage):
            self._note_seconds(trial.stage, taken)

    def _measure(self, stage: str) -> None:
        """Make a stage once more, unbroken: its artifact must be the reference's, else no comparison says anything."""
        trial = self.trial(stage)
        self.make(trial)
        if differences := self.differences(trial):
            raise AssertionError(f"two unbroken runs of {stage} differ in {', '.join(differences)}")
        self._note_seconds(stage, self.manifest(trial.store, stage).seconds)
        self.clear()

    def _note_seconds(self, stage: str, taken: float) -> None:
        self._seconds[self._fingerprints[stage]] = taken
        write_json(self.folder / _DURATIONS, self._seconds)

    def trial(self, stage: str, place: Path | str | None = None) -> Trial:
        """Return a new store, by default in a folder of its own, that holds what `stage` reads."""
        self._trials += 1
        own = self.trials / str(self._trials)
        store = Store(place or own / "store", own / "cache")
        for name in self._above(stage):
            self.copy(name, store)
        return Trial(store, stage)

    def copy(self, stage: str, store: Store) -> None:
        """Copy an artifact of the reference run into another store."""
        manifest = self.manifest(self.reference, stage)
        work = store.work_directory(stage, manifest.fingerprint)
        shutil.copytree(self.reference.local_path(manifest), work)
        store.publish_sealed(stage, manifest.fingerprint)

    def make(self, trial: Trial, act: Act | None = None, start: Start | None = None) -> Made:
        """Make the trial's stage; raises what a run raises.

        `act` is given its worker, in a thread of its own; `start` starts the worker, which is forked by default.
        """

        def forked(file: JobFile) -> ForkedWorker:
            worker = self._server.start(file.path, file.log)
            if act is not None:
                threading.Thread(target=act, args=(worker,), daemon=True).start()
            return worker

        return execute(*self.order(trial), trial.store, start=start or forked)

    def start_run(self, trial: Trial) -> ForkServerProcess:
        """Start making the trial's stage in a process of its own, which may be killed as a whole."""
        return start_run(self._uses, *self.order(trial), trial.store)

    def reader(self, trial: Trial) -> "Reader":
        """Return one who asks for the trial's artifact while it is made."""
        return Reader(trial.store, trial.stage, self._fingerprints[trial.stage])

    def order(self, trial: Trial) -> tuple[Order, dict[str, ArtifactRef]]:
        """Return the order of the trial's stage and its inputs; one that is damaged is made again, as a run does."""
        plan = make_plan(self.recipe, trial.store).stages
        inputs: dict[str, ArtifactRef] = {}
        for name, upstream in plan[trial.stage].stage.inputs.items():
            inputs[name] = plan[upstream].reference or self.make(Trial(trial.store, upstream)).manifest.reference
        return make_order(plan[trial.stage]), inputs

    def planned(self, store: Store, stage: str) -> PlannedStage:
        """Return what the plan says of a stage."""
        return make_plan(self.recipe, store).stages[stage]

    def manifest(self, store: Store, stage: str) -> Manifest:
        """Return the manifest of a stage's artifact, which must be there."""
        if store is self.reference and stage in self._references:
            return self._references[stage]
        found = store.find(stage, self._fingerprints[stage])
        assert found is not None, f"{stage} is not in {store.url}"
        if store is self.reference:
            self._references[stage] = found
        return found

    def differences(self, trial: Trial) -> list[str]:
        """Return in what the trial's artifact differs from the reference's; empty when it is the same.

        Also what else is not as after an unbroken run: an artifact above that was made again, work that is left.
        """
        ours, theirs = self.manifest(trial.store, trial.stage), self.manifest(self.reference, trial.stage)
        found = [name for name in sorted(set(ours.files) | set(theirs.files)) if self._differs(name, trial, ours)]
        found += ["counts"] if ours.outcome.counts != theirs.outcome.counts else []
        found += [f"damaged: {name}" for name in trial.store.verify(ours)]
        for name in self._above(trial.stage):
            if (
                name != trial.missing
                and self.manifest(trial.store, name).started != self.manifest(self.reference, name).started
            ):
                found.append(f"made again: {name}")
        left = [trial.store.work_directory(trial.stage, ours.fingerprint)]
        if trial.store.is_local:
            left += Path(trial.store.root).rglob("*.part")
        return found + [f"left: {path}" for path in left if path.exists()]

    def _differs(self, name: str, trial: Trial, ours: Manifest) -> bool:
        theirs = self.manifest(self.reference, trial.stage)
        if name.startswith(TIMED) or ours.files.get(name) == theirs.files.get(name):
            return False
        if not name.endswith(".json") or name not in ours.files or name not in theirs.files:
            return True
        read = [
            untimed(json.loads((store.local_path(manifest) / name).read_bytes()))
            for store, manifest in ((trial.store, ours), (self.reference, theirs))
        ]
        return read[0] != read[1]

    def clear(self) -> None:
        """Delete what trials left."""
        for path in self.trials.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def put_aside(self) -> Path:
        """Keep what trials left, for a person to look at; return where."""
        aside = self.folder / "wrong" / f"{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        self.trials.rename(aside)
        self.trials.mkdir()
        return aside

    def _above(self, stage: str) -> list[str]:
        return [name for name in self.stages if name in self.recipe.ancestors(stage)]


class Watch:
    """Notes the processes of a worker or a run, to see that none outlives it."""

    def __init__(self) -> None:
        self._seen: list[psutil.Process] = []

    def look(self, number: int | None) -> None:
        """Remember a process and all that it has started."""
        try:
            process = psutil.Process(number)
            self._seen += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return

    def orphans(self) -> list[str]:
        """Return what still runs after a short while."""
        deadline = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < deadline and any(map(runs, self._seen)):
            time.sleep(0.05)
        return [f"process {process.pid}" for process in self._seen if runs(process)]


class Reader:
    """A second process's view of an artifact that is being made: asks all the time, and checks what it is served.

    A context manager; `problem` is empty, or says what half-made artifact was served.
    """

    def __init__(self, store: Store, stage: str, fingerprint: str) -> None:
        self.problem = ""
        self._asked = (stage, fingerprint)
        self._store = Store(store.url, store.cache.with_name("reader"))
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader", daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._enough.wait(_READ_SECONDS):
            try:
                manifest = self._store.find(*self._asked)
                if manifest is not None:
                    damaged = self._store.verify(manifest)
                    self.problem = f"served half-made: {', '.join(damaged)}" if damaged else ""
                    return
            except (ArtifactError, OSError):  # the store is out of reach, which is this trial's fault
                continue


def untimed(value: Any) -> Any:
    """Return a JSON value without the fields that hold durations."""
    if isinstance(value, dict):
        entries = cast(dict[str, Any], value).items()
        return {name: untimed(entry) for name, entry in entries if not name.endswith("seconds")}
    return [untimed(entry) for entry in cast(list[Any], value)] if isinstance(value, list) else value


def runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that no parent (or init) has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
