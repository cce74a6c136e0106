"""`nanbeige up` as an operator meets it: refused, interrupted, killed, started again."""

import signal
import socket
import subprocess
import urllib.error
from pathlib import Path

import psutil
import pytest

from tests.flows.service import Service, wait_for
from tests.flows.test_pipeline import wait_until_gone

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]


def start_run(up: Service, deployment: str, **parameters: object) -> str:
    run = up.ask(f"/deployments/{up.deployment(deployment)['id']}/create_flow_run", {"parameters": parameters})
    return run["id"]


def test_a_taken_port_is_refused_before_anything_starts(service: Service, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused = service.command(*service.arguments(other.getsockname()[1]), home=tmp_path)
    assert refused.returncode == 2
    assert "is taken by another program" in refused.stderr
    assert "--port" in refused.stderr


def test_a_second_up_on_the_same_database_is_refused_and_told_where_the_first_is(up: Service) -> None:
    refused = up.command(*up.arguments(0))
    assert refused.returncode == 2
    assert up.url in refused.stderr
    assert "PREFECT_HOME" in refused.stderr


def test_everything_up_promises_is_on_the_server(up: Service) -> None:
    names = {entry["name"] for entry in up.ask("/deployments/filter", {}) if entry["work_pool_name"] == "local"}
    assert names == {"full", "stage", "sweep"}
    assert up.ask("/work_pools/local")["type"] == "process"
    assert up.ask("/v2/concurrency_limits/cores")["limit"] >= 1
    assert "runs whose process is gone" in {entry["name"] for entry in up.ask("/automations/filter", {})}


def test_a_value_outside_the_form_is_refused_by_the_server(up: Service) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        start_run(up, "full", profile="lapto")
    assert refused.value.code == 409
    assert "'lapto' is not one of ['laptop']" in refused.value.read().decode()


def test_sigterm_leaves_no_process_and_keeps_each_schedule_as_it_was(up: Service) -> None:
    sweep = up.deployment("sweep")
    schedule = sweep["schedules"][0]
    up.ask(f"/deployments/{sweep['id']}/schedules/{schedule['id']}", {"active": False}, method="PATCH")
    assert up.end(signal.SIGTERM) == []
    assert up.process is not None
    assert up.process.returncode == 0
    up.ensure()
    again = up.deployment("sweep")
    assert [(s["slug"], s["active"]) for s in again["schedules"]] == [("nightly-buckets", False)]
    assert not again["paused"]
    assert not up.deployment("full")["paused"]


def running_stage(up: Service) -> str:
    """Start a run that executes a stage, wait until the stage's process works, and return the run."""
    run = start_run(up, "stage", stage="ingest")
    wait_for(lambda: list(up.store.glob("ingest/*.work/.control/job.json")), 120)
    return run


def test_ctrl_c_stops_a_running_stage_and_the_next_up_can_go_on(up: Service) -> None:
    run = running_stage(up)
    assert up.end(signal.SIGINT) == []
    assert "running flow run(s)" in (up.folder / "up.txt").read_text()
    up.ensure()
    assert up.ask(f"/flow_runs/{run}")["state_type"] == "CRASHED"
    up.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True})
    wait_for(lambda: up.ask(f"/flow_runs/{run}")["state_type"] == "COMPLETED", 240)


def test_a_killed_up_leaves_no_process(up: Service) -> None:
    running_stage(up)
    family = up.processes()
    family[0].send_signal(signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=120)[1] == []
    assert wait_until_gone(str(up.folder))


HOLD = """
import sys
from flows.server import prefect_server
with prefect_server() as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def test_commands_in_one_folder_share_a_server_which_ends_with_the_last_of_them(service: Service) -> None:
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGTERM)
    first, second = (service.hold(HOLD) for _ in range(2))
    lines = [holder.stdout.readline().strip() for holder in (first, second)]
    assert lines[0] == lines[1] != ""
    server = [child for holder in (first, second) for child in psutil.Process(holder.pid).children()]
    assert len(server) == 1
    owner, user = (first, second) if server[0].ppid() == first.pid else (second, first)
    owner.stdin.close()
    assert server[0].is_running()
    with pytest.raises(subprocess.TimeoutExpired):
        owner.wait(timeout=3)
    user.stdin.close()
    assert user.wait(timeout=60) == 0
    assert owner.wait(timeout=60) == 0
    assert not server[0].is_running()
