"""Where the tasks of a data stage run: threads, processes, Ray tasks, or the ranks of a Slurm array.

A task is a picklable value and its function a module-level one that leaves files and returns plain JSON values. The
value it returns is committed as a file, so a task that finished is never run again, by this run or by a later one, and
every executor yields the same results in the same order.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor as PoolExecutor
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from nanbeige_core.cores import usable_cores
from nanbeige_core.data.allocation import return_arrow_memory

Result = dict[str, Any]

CONNECT_SECONDS = 10.0
"""Longest wait for a Ray cluster to accept a connection."""


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

    workers: int = field(default_factory=usable_cores)

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Run the unfinished tasks on `workers` threads; the first error stops what has not begun."""
        with ThreadPoolExecutor(self.workers) as pool:
            _run_on(pool, function, tasks, results)


@dataclass(frozen=True)
class ProcessPool:
    """Processes of this machine, for functions that hold the GIL; each imports what it runs, which takes seconds."""

    workers: int

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Run the unfinished tasks on `workers` processes; the first error stops what has not begun."""
        with ProcessPoolExecutor(self.workers, mp_context=get_context("spawn")) as pool:
            _run_on(pool, function, tasks, results)


@dataclass(frozen=True)
class RayTasks:
    """Tasks on a Ray cluster whose nodes share a file system and have this package installed.

    An empty `address` starts a cluster on this machine. At most `cpus` tasks run at once, by default as many as fit.
    """

    address: str = ""
    cpus: int | None = None

    def run(self, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]) -> None:
        """Submit the unfinished tasks, one CPU each; the first error cancels the others and is raised as it was.

        A task whose process was killed runs again, on any node. Raises ExecutorError when there is no such cluster,
        or when a task keeps losing its process.
        """
        ray = self._connect()
        remote = ray.remote(num_cpus=1)(run_task)
        waiting = [(task, path) for task, path in zip(tasks, results, strict=True) if not path.exists()][::-1]
        running: dict[Any, Path] = {}
        try:
            while waiting or running:
                while waiting and len(running) < (self.cpus or len(results)):
                    task, path = waiting.pop()
                    running[remote.remote(function, task, path)] = path
                (done,), _ = ray.wait(list(running), num_returns=1)
                path = running.pop(done)
                self._collect(ray, done, path)
        finally:
            for reference in running:
                ray.cancel(reference)

    def _connect(self) -> Any:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ExecutorError("the Ray executor needs ray: pip install 'nanbeige-recipe[ray]'.") from error
        if ray.is_initialized():
            return ray
        cpus = None if self.address else self.cpus
        try:
            host, _, port = self.address.rpartition(":")
            if host and port.isdigit():
                # Ray itself goes on asking for minutes
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            ray.init(self.address or "local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ExecutorError(
                f"no Ray cluster at {self.address or 'this machine'} ({error}). Start one (ray start --head) and "
                "give its address, or leave the address out to start one here."
            ) from error
        return ray

    @staticmethod
    def _collect(ray: Any, reference: Any, result: Path) -> None:
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            # Ray wraps what a task raised; a caller catches what the function raises on any executor
            raise error.cause or error from None
        except ray.exceptions.RayError as error:
            raise ExecutorError(
                f"{result}: Ray lost the process of this task for good ({error}). Look at the memory and the log of "
                "its node; what is finished stays, so running again goes on from there."
            ) from error


@dataclass(frozen=True)
class ArrayRank:
    """One rank of an array whose ranks all run the same program on a shared file system, as Slurm starts them.

    Rank r runs the tasks r, r + ranks, ...; it waits for the result files of the others. No rank talks to another.
    Ranks with one `job` (the id of the array) end as soon as one of them fails; without it they wait in patience.
    """

    rank: int
    ranks: int
    patience_seconds: float = 24 * 3600.0
    poll_seconds: float = 0.2
    job: str = ""

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
            self._run_own(function, tasks[number], results[number])
        deadline = time.monotonic() + self.patience_seconds
        while missing := [number for number, path in enumerate(results) if not path.exists()]:
            self._refuse_failed([results[number] for number in missing])
            if time.monotonic() > deadline:
                late = sorted({number % self.ranks for number in missing})
                raise ExecutorError(
                    f"{results[missing[0]]}: {len(missing)} of {len(results)} results are missing after "
                    f"{self.patience_seconds:.0f} s; they belong to ranks {late}. Look at the logs of those ranks; "
                    "submitting the array again goes on where it stopped."
                )
            time.sleep(self.poll_seconds)

    def _run_own(self, function: Callable[[Any], Result], task: Any, result: Path) -> None:
        failure = _failure_of(result)
        failure.unlink(missing_ok=True)
        try:
            run_task(function, task, result)
        except Exception as error:
            _commit(failure, {"job": self.job, "rank": self.rank, "error": f"{type(error).__name__}: {error}"})
            raise

    def _refuse_failed(self, missing: list[Path]) -> None:
        if not self.job:
            return
        for path in missing:
            failure = _read_failure(_failure_of(path))
            if failure and failure["job"] == self.job:
                raise ExecutorError(
                    f"{path}: rank {failure['rank']} of this array failed with {failure['error']} Mend that; "
                    "submitting the array again goes on where it stopped."
                )


def run_phase(
    executor: Executor, folder: Path, function: Callable[[Any], Result], tasks: Sequence[Any]
) -> list[Result]:
    """Run the tasks of one phase and return their results in task order; finished ones are read back from `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    results = [folder / f"{number:05d}.json" for number in range(len(tasks))]
    executor.run(function, tasks, results)
    return [json.loads(path.read_text()) for path in results]


def _run_on(
    pool: PoolExecutor, function: Callable[[Any], Result], tasks: Sequence[Any], results: Sequence[Path]
) -> None:
    futures = [pool.submit(run_task, function, task, path) for task, path in zip(tasks, results, strict=True)]
    try:
        for future in as_completed(futures):
            future.result()
    except BaseException:
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def run_task(function: Callable[[Any], Result], task: Any, result: Path) -> None:
    """Run one task and commit its result atomically, unless it is there."""
    if result.exists():
        return
    _commit(result, function(task))
    return_arrow_memory()


def _commit(path: Path, value: Result) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def _failure_of(result: Path) -> Path:
    return result.with_suffix(".failed")


def _read_failure(path: Path) -> Result | None:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
