"""Start a stage's worker the way its runtime asks for."""

import os
import subprocess
import sys

from nanbeige_core.launch.hosts import HostGroup
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.kubernetes import KubernetesJob
from nanbeige_core.launch.prefork import WorkerProcess
from nanbeige_core.launch.slurm import SlurmJob


def start_worker(file: JobFile) -> WorkerProcess:
    """Start a worker: a new interpreter here, or the agents of several nodes. Raises StageError where that fails."""
    launcher = file.runtime.launcher
    if launcher == "hosts":
        return HostGroup(file)
    if launcher == "slurm":
        return SlurmJob(file)
    if launcher == "kubernetes":
        return KubernetesJob(file)
    command = [sys.executable, "-m", "nanbeige_core.launch.worker", str(file.path), str(os.getpid())]
    # the child's output goes to a file: a pipe kept open by an orphan would keep its parent's run alive
    with file.log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
