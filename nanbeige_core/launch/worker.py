"""Run one stage's core function in a process of its own: `python -m nanbeige_core.launch.worker JOBFILE`.

With `launcher: elastic` the process becomes the agent of torch.distributed's elastic launch: it imports what the
ranks need, then forks them, so that N ranks pay for one import. One rank takes the same path as many.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from types import FrameType

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.errors import StageInterruptedError
from nanbeige_core.launch.job_file import PREEMPTED, JobFile, write_json
from nanbeige_core.stages import STAGES

_PR_SET_PDEATHSIG = 1
_PROGRESS_SECONDS = 0.5


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that no orphan goes on training (Linux).

    `parent` is the process id of the parent that started it: one that died before the call is noticed too.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


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
    try:
        if file.runtime.launcher == "elastic":
            return _run_elastic(file)
        signal.signal(signal.SIGTERM, _interrupted)
        return run_here(file)
    finally:
        write_json(file.control / "resources.json", used_resources())


def used_resources() -> dict[str, float]:
    """Return CPU seconds and the peak resident size of this process and of the children it waited for."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "cpu_seconds": round(own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime, 3),
        "peak_rss_bytes": 1024.0 * max(own.ru_maxrss, children.ru_maxrss),
        "cores": float(os.cpu_count() or 1),
    }


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise StageInterruptedError(f"signal {number}: told to stop")


def set_threads(threads: int) -> None:
    """Bound the intra-op threads of libraries imported from now on, and of torch if it is imported already."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def run_here(file: JobFile, rank: int = 0) -> int:
    """Run the core function in this process; rank 0 writes the outcome, any rank an error."""
    progress = _ProgressFile(file.control) if rank == 0 else _silent
    try:
        job = file.to_job(progress)
        outcome: Outcome = STAGES[file.uses].function()(job)
        if rank == 0:
            _write_outcome(file, job, outcome)
        return 0
    except StageInterruptedError:
        return PREEMPTED
    except Exception as error:  # the task boundary: everything a stage raises becomes a report for the parent
        traceback.print_exc()
        if rank == 0 or not (file.control / "error.json").exists():
            write_json(file.control / "error.json", {"type": type(error).__name__, "message": str(error)})
        return 1


def _silent(fraction: float, text: str) -> None:
    return None


def _write_outcome(file: JobFile, job: Job, outcome: Outcome) -> None:
    from nanbeige_core.report.stage_report import write_report

    write_report(job, outcome, STAGES[file.uses])
    write_json(file.control / "outcome.json", json.loads(outcome.model_dump_json()))


def _run_elastic(file: JobFile) -> int:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    STAGES[file.uses].function()  # imported before the fork: the ranks inherit it
    import_module("nanbeige_core.launch.ranks")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=file.runtime.processes,
        run_id=f"{file.stage}-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method=_start_method(),
        log_line_prefix_template=f"[{file.stage}:${{local_rank}}]: ",
    )
    try:
        statuses = elastic_launch(config, _rank_main)(file.model_dump_json(), os.getpid())
    except ChildFailedError:
        return 1
    return max(statuses.values())


def _start_method() -> str:
    """Fork on CPU, so ranks share imports; spawn where CUDA must not be inherited."""
    import torch

    return "spawn" if torch.cuda.is_available() else "fork"


def _rank_main(text: str, agent: int) -> int:
    die_with_parent(agent)
    signal.signal(signal.SIGTERM, _interrupted)
    import torch
    import torch.distributed as dist

    file = JobFile.model_validate_json(text)
    torch.set_num_threads(file.runtime.threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    status = run_here(file, rank=dist.get_rank())
    if status not in (0, PREEMPTED):
        raise SystemExit(status)
    if dist.is_initialized():
        dist.destroy_process_group()
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
