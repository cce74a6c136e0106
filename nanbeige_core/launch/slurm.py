"""Run a stage as a Slurm job: one agent on each of its nodes, on a file system that they share.

`sbatch` is spoken to directly. submitit pickles the call it makes and ignores SIGTERM in its tasks, which is how Slurm
announces preemption; a Prefect Slurm worker submits whole flow runs, not a stage with its own number of nodes.
"""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from nanbeige_core.errors import StageError
from nanbeige_core.launch.job_file import PREEMPTED, JobFile

_POLL_SECONDS = 2.0
_PORT = 29500
_PORTS = 1000
_STATUS = "slurm-status"
_LIVING = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
}


def batch_script(file: JobFile) -> str:
    """Return the job's batch script; its last line leaves the exit status beside the job file.

    Slurm sends SIGTERM to the steps `stop_seconds` before the time limit and at preemption: they leave a resume point
    and end with status 75. A node that fails ends the step (`--kill-on-bad-exit`).
    """
    runtime = file.runtime
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name=nanbeige-{file.stage}",
        f"#SBATCH --nodes={runtime.nodes}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --cpus-per-task={runtime.processes * runtime.threads}",
        f"#SBATCH --output={file.log}",
        "#SBATCH --open-mode=append",
        "#SBATCH --no-requeue",
        f"#SBATCH --signal=TERM@{max(int(runtime.stop_seconds), 1)}",
        *(f"#SBATCH --{option}" for option in runtime.slurm.options),
        *runtime.slurm.setup,
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"port=$(({_PORT} + SLURM_JOB_ID % {_PORTS}))",
        "trap : TERM",  # the steps stop in order; the script must live to note their status
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        f"srun --kill-on-bad-exit=1 bash -c 'exec {shlex.quote(sys.executable)} -m nanbeige_core.launch.node "
        f'"$0" --node "$SLURM_NODEID" --rendezvous "$1"\' {shlex.quote(str(file.path))} "$first:$port" &',
        "step=$!",
        "wait $step; status=$?",
        "while kill -0 $step 2>/dev/null; do wait $step; status=$?; done",
        f"echo $status > {shlex.quote(str(file.control / _STATUS))}",
        "exit $status",
    ]
    return "\n".join(lines) + "\n"


class SlurmJob:
    """A submitted job as a worker process."""

    def __init__(self, file: JobFile) -> None:
        self.returncode: int | None = None
        self._status = file.control / _STATUS
        script = file.control / "job.sbatch"
        script.write_text(batch_script(file), encoding="utf-8")
        done = _call("sbatch", "--parsable", str(script))
        if done.returncode != 0:
            raise StageError(
                f"stage {file.stage}: Slurm refused the job: {done.stderr.strip()}. Check runtime.slurm.options "
                f"({', '.join(file.runtime.slurm.options) or 'none given'}); the script is {script}."
            )
        self.number = done.stdout.strip().split(";")[0]
        self._asked = 0.0

    def poll(self) -> int | None:
        """Return the exit status once the job has ended; Slurm is asked every two seconds."""
        if self.returncode is None and time.monotonic() - self._asked >= _POLL_SECONDS:
            self._asked = time.monotonic()
            if _state(self.number) not in _LIVING:
                self.returncode = self._exit_status()
        return self.returncode

    def _exit_status(self) -> int:
        """Return the status the script noted; without one the job was cancelled, preempted or lost its node."""
        try:
            return int(self._status.read_text())
        except (OSError, ValueError):
            return PREEMPTED

    def send_signal(self, sig: int) -> None:
        """Signal the job's steps; a job that waits in the queue is taken out of it."""
        if self.returncode is None:
            if _state(self.number) == "PENDING":
                _call("scancel", self.number)
            else:
                _call("scancel", f"--signal={signal.Signals(sig).name.removeprefix('SIG')}", self.number)

    def kill(self) -> None:
        """Cancel the job."""
        _call("scancel", self.number)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"Slurm job {self.number}", timeout or 0.0)
            time.sleep(0.2)
        return status


def _state(number: str) -> str:
    """Return a job's state in Slurm's words; empty when the controller no longer knows it."""
    done = _call("squeue", "--noheader", "--format=%T", f"--jobs={number}")
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        return "RUNNING"  # the controller does not answer: nothing is known, so nothing is concluded
    return done.stdout.strip()


def _call(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StageError(
            f"runtime.launcher is slurm, but {command[0]} is not on this machine. Start the flow on a login node, or "
            "choose another launcher."
        ) from error
