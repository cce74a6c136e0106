"""One stage over two hosts, ranks and hosts that are lost, and preemption: each ends in the same weights."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from nanbeige_core.artifacts.store import Store
from nanbeige_core.cluster import Host, Hosts
from nanbeige_core.contract import Runtime
from nanbeige_core.errors import StageError, StageInterruptedError
from nanbeige_core.faults.laboratory import runs
from nanbeige_core.launch.execute import execute
from nanbeige_core.launch.hosts import HostGroup
from nanbeige_core.launch.job_file import JobFile, read_json
from nanbeige_core.launch.prefork import WorkerProcess
from nanbeige_core.launch.start import start_worker
from tests.launch.tiny_phase import STEPS, phase_order, resume_points, seal_mixture, weights

PREEMPTED_RUN, TWO_HOSTS = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def machine_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("nodes")
    return Store(folder / "store", folder / "cache")


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Two network namespaces with one cable between them."""
    tag = f"nb{os.getpid() % 10000}"
    names = (f"{tag}a", f"{tag}b")
    commands = [f"ip netns add {name}" for name in names]
    commands.append(f"ip link add cable netns {names[0]} type veth peer name cable netns {names[1]}")
    for number, name in enumerate(names, start=1):
        commands.append(f"ip -n {name} addr add 10.77.0.{number}/24 dev cable")
        commands += [f"ip -n {name} link set {device} up" for device in ("cable", "lo")]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"network namespaces cannot be made here: {command}: {done.stderr.strip()}")
        reach = tuple(
            Host(command=f"ip netns exec {name}", address=f"10.77.0.{number}") for number, name in enumerate(names, 1)
        )
        yield Hosts(reach=reach, rendezvous="10.77.0.1:29500", interface="cable")
    except FileNotFoundError:
        pytest.skip("iproute2 is not installed")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def when(reached: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as a condition holds."""

    def watch() -> None:
        deadline = time.monotonic() + 280
        while time.monotonic() < deadline and not reached():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def step(store: Store, fingerprint: str) -> int:
    progress = read_json(store.work_directory("fgwsd_warmup", fingerprint) / ".control/progress.json")
    return round(progress["fraction"] * STEPS) if progress else 0


def test_preemption_leaves_a_resume_point_of_the_very_step(machine_store: Store) -> None:
    runtime = Runtime(launcher="elastic", processes=2, pipeline_parallel=2, micro_batch_size=2, checkpoint_seconds=1e6)
    order = phase_order(PREEMPTED_RUN, runtime)
    inputs = {"mixture": seal_mixture(machine_store)}
    started: list[WorkerProcess] = []

    def start(file: JobFile) -> WorkerProcess:
        started.append(start_worker(file))
        return started[-1]

    stopper = when(lambda: step(machine_store, PREEMPTED_RUN) > 0, lambda: started[0].send_signal(signal.SIGTERM))
    with pytest.raises(StageInterruptedError, match="same command again"):
        execute(order, inputs, machine_store, start=start)
    stopper.join()
    assert started[0].returncode == 75
    assert len(resume_points(machine_store, PREEMPTED_RUN)) == 1, "written because of the signal, not of the clock"
    made = execute(order, inputs, machine_store)
    assert made.manifest.outcome.counts["steps"] == STEPS


def test_two_hosts_lose_a_rank_then_a_host_and_end_in_the_same_weights(machine_store: Store, hosts: Hosts) -> None:
    runtime = Runtime(
        launcher="hosts",
        nodes=2,
        hosts=hosts,
        pipeline_parallel=2,
        micro_batch_size=2,
        checkpoint_seconds=0.05,
        restarts=1,
    )
    order = phase_order(TWO_HOSTS, runtime)
    inputs = {"mixture": seal_mixture(machine_store)}
    groups: list[HostGroup] = []
    watched: list[psutil.Process] = []
    lines: list[str] = []

    def points() -> int:
        return max((int(path.parent.name[5:]) for path in resume_points(machine_store, TWO_HOSTS)), default=0)

    def start(file: JobFile) -> HostGroup:
        groups.append(HostGroup(file))
        begun, lose_host = points(), len(groups) > 1
        when(lambda: points() > begun + 2, lambda: lose(groups[-1], host=lose_host))
        return groups[-1]

    def lose(group: HostGroup, *, host: bool) -> None:
        agents = [psutil.Process(pid) for pid in group.pids]
        ranks = [rank for agent in agents for rank in agent.children()]
        watched.extend([*agents, *ranks])
        (agents[1] if host else agents[1].children()[-1]).kill()

    with pytest.raises(StageError, match="nanbeige run --from fgwsd_warmup"):
        execute(order, inputs, machine_store, start=start, log=lines.append)
    assert len(groups) == 2, "the lost rank cost a restart, the lost host the attempt"
    assert "started again from its newest resume point (1)" in lines[-1]
    assert 4 <= points() < STEPS
    assert not [process for process in watched if runs(process)], "no process outlives its group"
    made = execute(order, inputs, machine_store)
    assert made.manifest.runtime["nodes"] == 2
    one_host, two_hosts = (weights(machine_store, key) for key in (PREEMPTED_RUN, TWO_HOSTS))
    assert all(torch.equal(one_host[name], two_hosts[name]) for name in one_host)


def test_the_node_that_failed_gives_the_groups_status(tmp_path: Path) -> None:
    """An agent told to stop ends by the signal: that must not make a lost rank look like a stage somebody stopped."""
    reach = (Host(command="sh -c 'exec sleep 60'"), Host(command="sh -c 'sleep 0.3; exit 3'"))
    runtime = Runtime(launcher="hosts", nodes=2, hosts=Hosts(reach=reach, rendezvous="localhost:29500"))
    (tmp_path / ".control").mkdir()
    file = JobFile(
        stage="phase",
        uses="pretrain",
        config={},
        runtime=runtime,
        inputs={},
        work=str(tmp_path),
        cache=str(tmp_path),
    )
    group = HostGroup(file)
    assert group.wait(30) == 3
    assert not [pid for pid in group.pids if psutil.pid_exists(pid)]


def test_an_undisturbed_single_rank_agrees(machine_store: Store) -> None:
    runtime = Runtime(launcher="elastic", micro_batch_size=2)
    order = phase_order("c" * 64, runtime)
    execute(order, {"mixture": seal_mixture(machine_store)}, machine_store)
    one, two = (weights(machine_store, key) for key in ("c" * 64, PREEMPTED_RUN))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-3, msg=name)


def test_several_nodes_need_a_launcher_that_reaches_them() -> None:
    with pytest.raises(ValueError, match=r"runtime\.nodes is 2, but launcher elastic knows this machine only"):
        Runtime(launcher="elastic", nodes=2)
    with pytest.raises(ValueError, match=r"names 0 hosts.*runtime\.nodes=1"):
        Runtime(launcher="hosts")
