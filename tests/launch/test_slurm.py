"""A stage as a job of a real Slurm: controller, node daemon and munge of this machine, started for the test."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import StageError
from nanbeige_core.launch.execute import execute
from tests.launch.test_execute import ingest_order

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    path = os.environ["PATH"] + ":/usr/sbin"
    if os.getuid() != 0 or not all(shutil.which(name, path=path) for name in PROGRAMS):
        pytest.skip("needs root and Slurm (Debian: apt-get install slurmctld slurmd slurm-client munge)")
    folder = Path(f"/tmp/nanbeige-slurm-{os.getpid()}")  # sockets have short paths
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    host = socket.gethostname().split(".")[0]
    text = CONFIGURATION.format(host=host, folder=folder, port=free_port(), node_port=free_port())
    (folder / "slurm.conf").write_text(text)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    commands = [
        ["munged", "--force", "--foreground", f"--key-file={folder}/key", f"--socket={folder}/munge.socket", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    before = dict(os.environ)
    os.environ.update(PATH=path, SLURM_CONF=str(folder / "slurm.conf"))
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder))
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True, check=False).stdout:
            if time.monotonic() > deadline:
                pytest.skip("Slurm does not start here")
            time.sleep(0.3)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_stage_runs_as_a_slurm_job(slurm: None, tmp_path: Path, store: Store) -> None:
    made = execute(ingest_order(tmp_path, launcher="slurm"), {}, store)
    assert made.executed
    assert made.manifest.outcome.counts
    assert made.manifest.runtime["launcher"] == "slurm"


def test_what_slurm_refuses_is_told_in_its_words(slurm: None, tmp_path: Path, store: Store) -> None:
    order = ingest_order(tmp_path, launcher="slurm")
    order.runtime["slurm"] = {"options": ["partition=nowhere"], "setup": []}
    with pytest.raises(StageError, match=r"(?s)Slurm refused the job.*partition.*partition=nowhere"):
        execute(order, {}, store)
