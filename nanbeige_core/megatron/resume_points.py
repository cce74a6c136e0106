"""When a training loop writes a resume point: every so often, and when it is told to stop."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from nanbeige_core.contract import Job
from nanbeige_core.errors import StageInterruptedError
from nanbeige_core.launch.ranks import rank
from nanbeige_core.megatron import device
from nanbeige_core.megatron.trainer import Trainer


class ResumePoints:
    """Resume points of one training loop, under the job's scratch folder."""

    def __init__(self, job: Job, trainer: Trainer) -> None:
        self._job = job
        self._trainer = trainer
        self._directory = job.scratch / "resume"
        self._saved = time.monotonic()

    @contextmanager
    def training(self) -> Generator[None]:
        """Let a request to stop wait for the end of the step while the block runs."""
        with self._job.stop.deferred():
            yield

    def load(self) -> dict[str, Any] | None:
        """Restore the newest resume point and return what was kept with it, or None; collective."""
        return self._trainer.load_resume(self._directory)

    def after_step(self, keep: dict[str, Any] | Callable[[], None], *, more: bool) -> None:
        """Write a resume point if one is due and `more` steps follow, or when any rank was told to stop.

        `keep` is what is kept with it, or a function that writes the whole point. Before the first update there is
        none: the optimizer has no state yet. One all-reduce, for ranks that disagree about a collective hang: rank 0's
        clock and every rank's signal decide for all. Raises StageInterruptedError on every rank after the point that
        a request to stop asks for.
        """
        due = more and rank() == 0 and time.monotonic() - self._saved > self._job.runtime.checkpoint_seconds
        decision_2 = torch.tensor([due, self._job.stop.requested], dtype=torch.int32, device=device.device())
        dist.all_reduce(decision_2, op=dist.ReduceOp.MAX)
        save, stop = (bool(flag) for flag in decision_2.tolist())
        if (save or stop) and self._trainer.step:
            if callable(keep):
                keep()
            else:
                self._trainer.save_resume(self._directory, keep)
            self._saved = time.monotonic()
        if stop:
            raise StageInterruptedError(f"told to stop after step {self._trainer.step}; a resume point is kept")
