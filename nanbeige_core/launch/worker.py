"""Run one stage's core function in a process of its own: `python -m nanbeige_core.launch.worker JOBFILE`.

With `launcher: elastic` the process becomes the agent of torch.distributed's elastic launch (`elastic.py`). One rank
takes the same path as many.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from functools import cache
from pathlib import Path

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.cores import usable_cores
from nanbeige_core.errors import StageInterruptedError
from nanbeige_core.launch.job_file import PREEMPTED, JobFile, write_json
from nanbeige_core.resident import peak_resident_bytes
from nanbeige_core.stages import STAGES
from nanbeige_core.stopping import StopRequest

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.5


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan goes on training (Linux).

    `parent` is the process id of the parent that started it: one that died before the call is noticed too. What this
    process forks, such as Megatron's writer of checkpoints, dies with it in the same way.
    """
    if sys.platform == "linux":
        _end_with(parent)
        _tie_forks()


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@cache
def _tie_forks() -> None:
    forking = 0

    def note() -> None:
        nonlocal forking
        forking = os.getpid()

    os.register_at_fork(before=note, after_in_child=lambda: _end_with(forking))


class _ProgressFile:
    """Write progress for the parent, at most twice a second."""

    def __init__(self, control: Path) -> None:
        self.path = control / "progress.json"
        self.last = 0.0

    def __call__(self, fraction: float, text: str) -> None:
        now = time.monotonic()
        if now - self.last >= _PROGRESS_SECONDS or fraction >= 1:
            self.last = now
            write_json(self.path, {"fraction": min(max(fraction, 0.0), 1.0), "text": text})


def main(path: str, parent: int) -> int:
    """Execute a job file for the process `parent` and return the exit status."""
    die_with_parent(parent)
    file = JobFile.model_validate_json(Path(path).read_text(encoding="utf-8"))
    set_threads(file.runtime.threads)
    if file.gpus:  # for the ranks: where there is CUDA they are new processes, which read it when CUDA starts
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(file.gpus)
    try:
        if file.runtime.launcher == "elastic":
            from nanbeige_core.launch.elastic import run_agent

            return run_agent(file)
        stop = StopRequest()
        signal.signal(signal.SIGTERM, stop)
        return run_here(file, stop=stop)
    finally:
        write_json(file.control / "resources.json", used_resources())


def used_resources() -> dict[str, float]:
    """Return CPU seconds and the peak resident size of this process and of the children it waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        "peak_rss_bytes": float(max(peak_resident_bytes(), 1024 * children.ru_maxrss)),
        "cores": float(usable_cores()),
    }


def set_threads(threads: int) -> None:
    """Bound the intra-op threads of libraries imported from now on, and of torch if it is imported already."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def run_here(file: JobFile, rank: int = 0, stop: StopRequest | None = None) -> int:
    """Run the core function in this process; rank 0 writes the outcome, any rank an error."""
    progress = _ProgressFile(file.control) if rank == 0 else _silent
    try:
        job = file.to_job(progress, stop)
        outcome: Outcome = STAGES[file.uses].function()(job)
        if rank == 0:
            _write_outcome(file, job, outcome)
        return 0
    except StageInterruptedError:
        return PREEMPTED
    except Exception as error:  # the task boundary: everything a stage raises becomes a report for the parent
        traceback.print_exc()
        if _was_told(error):
            return PREEMPTED
        if rank == 0 or not (file.control / "error.json").exists():
            write_json(file.control / "error.json", {"type": type(error).__name__, "message": str(error)})
        return 1


def _was_told(error: BaseException | None) -> bool:
    """Tell an error that a library made of the request to stop, which it caught."""
    while error is not None and not isinstance(error, StageInterruptedError):
        error = error.__cause__ or error.__context__
    return error is not None


def _silent(fraction: float, text: str) -> None:
    return None


def _write_outcome(file: JobFile, job: Job, outcome: Outcome) -> None:
    from nanbeige_core.report.stage_report import write_report

    write_report(job, outcome, STAGES[file.uses])
    write_json(file.control / "outcome.json", json.loads(outcome.model_dump_json()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
