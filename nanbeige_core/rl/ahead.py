"""Sample the next step's groups while this step's update runs: one step off-policy, on a thread of its own.

The engine's weights may change only while nothing is being sampled, so `wait` comes before every weight sync. What is
drawn follows from weights and seeds alone and not from the threads' timing: with lag 1, step k+1 is always sampled at
the weights before the update of step k, and truncated importance sampling weighs its tokens (`rl.losses`).
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import barrier, gather_objects, rank
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.rewards import Rollout
from nanbeige_core.rl.rollout_table import (
    policy_name,
    read_rollouts,
    step_file,
    to_rows,
    to_table,
    updates_of,
    write_table,
)
from nanbeige_core.rl.source import Source, StoredSource


class Drawn(NamedTuple):
    """One rank's groups of a step, and the version of the weights that sampled them."""

    groups: list[list[Rollout]]
    version: int


class Ahead:
    """Give a step's groups, and begin the next step's when asked to; use as a context manager."""

    def __init__(self, source: Source, engine: Engine) -> None:
        self._source, self._engine = source, engine
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rollout")
        self._pending: dict[int, Future[Drawn]] = {}

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self, step: int, part: int, parts: int) -> Drawn:
        """Return the groups of `step`: those begun before, else sampled now."""
        if step in self._pending:
            return self._pending.pop(step).result()
        return self._draw(step, part, parts)

    def begin(self, step: int, part: int, parts: int) -> None:
        """Start sampling `step` at the weights the engine holds now."""
        self._pending[step] = self._pool.submit(self._draw, step, part, parts)

    def wait(self) -> None:
        """Return when nothing is being sampled; raises what sampling raised."""
        for future in self._pending.values():
            future.result()

    def save(self, directory: Path, step: int, *, trainer: Trainer, stage: str, checkpoint: str) -> None:
        """Write the groups begun for `step`, if any, beside a resume point; collective."""
        if step not in self._pending:
            return
        drawn = self._pending[step].result()
        parts: dict[int, list[list[Rollout]]] = dict(gather_objects((trainer.data_rank, drawn.groups)))
        tiers = zip_longest(*(parts[part] for part in sorted(parts)))
        # dealt out in turn, so that any number of ranks that resumes deals them out again
        groups = [group for tier in tiers for group in tier if group is not None]
        if rank() == 0:
            policy = policy_name(checkpoint, drawn.version)
            write_table(
                step_file(directory, step), to_table(to_rows(groups, stage=stage, step=step, policy=policy, sampler=""))
            )
        barrier()

    def load(self, directory: Path, step: int, prompts: Sequence[PromptRow], part: int, parts: int) -> None:
        """Hold what a killed run had sampled for `step`, if it had."""
        if not step_file(directory, step).exists():
            return
        stored = [row for row in read_rollouts(directory) if row.step == step]
        source = StoredSource(stored, {row.id: row for row in prompts})
        done = Future[Drawn]()
        done.set_result(Drawn(source.groups(step, part, parts), updates_of(stored[0].policy)))
        self._pending[step] = done

    def _draw(self, step: int, part: int, parts: int) -> Drawn:
        version = self._source.updates(step, self._engine.version)
        return Drawn(self._source.groups(step, part, parts), version)
