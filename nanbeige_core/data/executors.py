"""Where the tasks of a data stage run: threads of this process, Ray tasks, or the ranks of a Slurm array.

A task is a picklable value and its function a module-level one that leaves files and returns plain JSON values. The
value it returns is committed as a file, so a task that finished is never run again, by this run or by a later one, and
every executor yields the same results in the same order.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Result = dict[str, Any]


class ExecutorError(RuntimeError):
    """The tasks of a phase cannot be finished."""


class Executor(Protocol):
    """Runs the unfinished tasks of a phase; returns when the result file of every task exists."""

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Run `function` on each task and commit what it returns to the result file of the same position."""
        ...


@dataclass(frozen=True)
class LocalPool:
    """Threads of this process; the kernels release the GIL, so nothing is copied between processes."""

    workers: int = os.cpu_count() or 1

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Run the unfinished tasks on `workers` threads; the first error stops what has not begun."""
        with ThreadPoolExecutor(self.workers) as pool:
            futures = [pool.submit(run_task, function, task, path) for task, path in zip(tasks, results, strict=True)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


@dataclass(frozen=True)
class RayTasks:
    """Tasks on a Ray cluster that shares a file system; an empty `address` starts one on this machine."""

    address: str = ""
    cpus: int | None = None

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Submit the unfinished tasks, one CPU each, and wait for all."""
        try:
            import ray  # pyright: ignore[reportMissingImports]  # an optional extra
        except ModuleNotFoundError as error:
            raise ExecutorError("the Ray executor needs ray: pip install ray.") from error
        if not ray.is_initialized():
            ray.init(address=self.address or None, num_cpus=self.cpus, include_dashboard=False, log_to_driver=False)
        remote = ray.remote(num_cpus=1)(run_task)
        ray.get([remote.remote(function, task, path) for task, path in zip(tasks, results, strict=True)])


@dataclass(frozen=True)
class ArrayRank:
    """One rank of an array whose ranks all run the same program on a shared file system, as Slurm starts them.

    Rank r runs the tasks r, r + ranks, ...; it waits for the result files of the others. No rank talks to another.
    """

    rank: int
    ranks: int
    patience_seconds: float = 24 * 3600.0
    poll_seconds: float = 0.2

    def __post_init__(self) -> None:
        """Refuse a rank that does not exist."""
        if not 0 <= self.rank < self.ranks:
            raise ExecutorError(
                f"rank {self.rank} of {self.ranks}: ranks count from 0. Submit with --array=0-{self.ranks - 1} and "
                "pass SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT."
            )

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Run this rank's tasks, then wait; raises ExecutorError naming what is missing after `patience_seconds`."""
        for number in range(self.rank, len(tasks), self.ranks):
            run_task(function, tasks[number], results[number])
        deadline = time.monotonic() + self.patience_seconds
        while missing := [number for number, path in enumerate(results) if not path.exists()]:
            if time.monotonic() > deadline:
                late = sorted({number % self.ranks for number in missing})
                raise ExecutorError(
                    f"{results[missing[0]]}: {len(missing)} of {len(results)} results are missing after "
                    f"{self.patience_seconds:.0f} s; they belong to ranks {late}. Look at the logs of those ranks; "
                    "submitting the array again goes on where it stopped."
                )
            time.sleep(self.poll_seconds)


def run_phase(
    executor: Executor, folder: Path, function: Callable[[Any], Result], tasks: Sequence[Any]
) -> list[Result]:
    """Run the tasks of one phase and return their results in task order; finished ones are read back from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [folder / f"{number:05d}.json" for number in range(len(tasks))]
    executor.run(function, tasks, results)
    return [json.loads(path.read_text()) for path in results]


def run_task(function: Callable[[Any], Result], task: Any, result: Path) -> None:
    """Run one task and commit its result atomically, unless it is there."""
    if result.exists():
        return
    value = function(task)
    temporary = result.with_name(f".{result.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, result)
