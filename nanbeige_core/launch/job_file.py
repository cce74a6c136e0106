"""The files through which a stage's parent process and its worker processes speak.

All live in the work directory's control folder: `job.json` (what to do), `progress.json` (how far), `outcome.json`
(what came of it), `error.json` (what went wrong), `log.txt` (everything printed).
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.store import CONTROL
from nanbeige_core.contract import InputArtifact, Job, Outcome, Progress, Runtime
from nanbeige_core.stages import STAGES
from nanbeige_core.stopping import StopRequest

PREEMPTED = 75
"""Exit status of a worker that was told to stop and left a resume point (EX_TEMPFAIL)."""


class InputFile(BaseModel):
    """One input as the worker needs it."""

    model_config = ConfigDict(extra="forbid")

    kind: Kind
    fingerprint: str
    path: str
    counts: dict[str, int]
    metrics: dict[str, float]


class JobFile(BaseModel):
    """A stage execution, as plain data."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    uses: str
    config: dict[str, Any]
    runtime: Runtime
    inputs: dict[str, InputFile]
    work: str
    cache: str
    gpus: tuple[str, ...] = ()

    @property
    def control(self) -> Path:
        """Return the control folder."""
        return Path(self.work) / CONTROL

    @property
    def path(self) -> Path:
        """Return where this file itself is kept."""
        return self.control / "job.json"

    @property
    def log(self) -> Path:
        """Return the file for everything the worker prints."""
        return self.control / "log.txt"

    def to_job(self, progress: Progress, stop: StopRequest | None = None) -> Job:
        """Build what the core function is given; the config is validated again by its own class."""
        return Job(
            stage=self.stage,
            config=STAGES[self.uses].config_class().model_validate(self.config),
            runtime=self.runtime,
            inputs={
                name: InputArtifact(
                    name, item.kind, item.fingerprint, Path(item.path), dict(item.counts), dict(item.metrics)
                )
                for name, item in self.inputs.items()
            },
            work=Path(self.work),
            cache=Path(self.cache),
            progress=progress,
            stop=stop or StopRequest(),
        )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, so that a reader never sees half a file."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """Return the file's JSON, or None when it is not there (yet)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def read_outcome(control: Path) -> Outcome | None:
    """Return the outcome a worker wrote, or None."""
    path = control / "outcome.json"
    return Outcome.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
