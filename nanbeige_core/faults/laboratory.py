"""Where runs are broken: a finished reference run, and copies of its store in which one stage is made again.

A stage is made by the code that every run uses (`launch.execute`), in workers forked from one server, so that two
hundred kills are affordable. What counts as mended: the stage's artifact has the reference's counts and the same bytes
in every file that holds no times.
"""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.faults.tiny import tiny_recipe
from nanbeige_core.launch.execute import Made, execute
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.orders import make_order
from nanbeige_core.launch.prefork import ForkedWorker, Prefork, WorkerProcess
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import PlannedStage, make_plan

RUNTIME = {"launcher": "process", "micro_batch_size": 4, "checkpoint_seconds": 0.2}
TIMED = (
    "report.html",
    "report.md",
    "rollouts.parquet",
    "rollouts/",
    "state.json",
    "model.json",
    "log/",
    "tensorboard/",
    "weights/.metadata",
    "optimizer/.metadata",
)
"""Files that hold times, the name of a run, or (torch's index of a checkpoint) their folder and a random id.

All others, the tensors among them, are compared byte by byte.
"""
_GONE_SECONDS = 10.0

Act = Callable[[ForkedWorker], None]
Start = Callable[[JobFile], WorkerProcess]


@dataclass(frozen=True)
class Trial:
    """A store with everything above `stage`, and nothing of it."""

    store: Store
    stage: str


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
        self._server = Prefork({self.recipe.stages[name].spec.uses for name in self.stages}, threads=1)
        self._trials = 0

    def __enter__(self) -> "Laboratory":
        shutil.rmtree(self.trials, ignore_errors=True)  # of a call that was cut short
        self.trials.mkdir()
        self._server.wait_ready(300)
        for name in self.stages:
            self.make(Trial(self.reference, name))
        return self

    def __exit__(self, *error: object) -> None:
        self._server.close()
        shutil.rmtree(self.trials, ignore_errors=True)

    def seconds(self, stage: str) -> float:
        """Return how long the reference run took for a stage."""
        return self.manifest(self.reference, stage).seconds

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
        planned = self.planned(trial.store, trial.stage)
        inputs: dict[str, ArtifactRef] = {}
        for name, upstream in planned.stage.inputs.items():
            reference = self.planned(trial.store, upstream).reference
            if reference is None:  # damaged: a run makes it again
                reference = self.make(Trial(trial.store, upstream)).manifest.reference
            inputs[name] = reference

        def forked(file: JobFile) -> ForkedWorker:
            worker = self._server.start(file.path, file.log)
            if act is not None:
                threading.Thread(target=act, args=(worker,), daemon=True).start()
            return worker

        return execute(make_order(planned), inputs, trial.store, start=start or forked)

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
        """Return in what the trial's artifact differs from the reference's; empty when it is the same."""
        ours, theirs = self.manifest(trial.store, trial.stage), self.manifest(self.reference, trial.stage)
        found = [
            name
            for name in sorted(set(ours.files) | set(theirs.files))
            if not name.startswith(TIMED) and ours.files.get(name) != theirs.files.get(name)
        ]
        found += ["counts"] if ours.outcome.counts != theirs.outcome.counts else []
        return found + [f"damaged: {name}" for name in trial.store.verify(ours)]

    def forget(self, trial: Trial) -> None:
        """Delete what a trial left."""
        shutil.rmtree(trial.store.cache.parent, ignore_errors=True)

    def _above(self, stage: str) -> list[str]:
        return [name for name in self.stages if name in self.recipe.ancestors(stage)]


class Watch:
    """Notes the processes of a worker, to see that none outlives it."""

    def __init__(self) -> None:
        self._seen: list[psutil.Process] = []

    def look(self, worker: ForkedWorker) -> None:
        """Remember a worker and all that it has started."""
        try:
            process = psutil.Process(worker.pid)
            self._seen += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return

    def orphans(self) -> list[str]:
        """Return what still runs after a short while."""
        deadline = time.monotonic() + _GONE_SECONDS
        while time.monotonic() < deadline and any(map(runs, self._seen)):
            time.sleep(0.05)
        return [f"process {process.pid}" for process in self._seen if runs(process)]


def runs(process: psutil.Process) -> bool:
    """Whether a process runs; one that ended and that no parent (or init) has reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
