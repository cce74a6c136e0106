"""A recipe run through an S3 store: made, reused, resumed after an outage, and no credential anywhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanbeige_core.faults.object_storage import BUCKET, KEY, SECRET, ObjectStorage, rclone
from tests.flows.test_pipeline import recipe_file

pytestmark = [pytest.mark.server, pytest.mark.skipif(rclone() is None, reason="rclone is not installed")]
STORE = f"s3://{BUCKET}/recipe"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    made = ObjectStorage(tmp_path_factory.mktemp("s3"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def machine(server: ObjectStorage, prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> "Machine":
    return Machine(tmp_path_factory.mktemp("machine"), server, prefect_api)


class Machine:
    """A folder in which the command is called, with the environment that reaches the store."""

    def __init__(self, folder: Path, server: ObjectStorage, api: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, **server.environment, "PREFECT_API_URL": api}

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments, "--store", STORE],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )


def test_a_recipe_runs_through_object_storage_and_survives_its_outage(
    machine: Machine, server: ObjectStorage, prefect_api: str, tmp_path: Path
) -> None:
    file = recipe_file(tmp_path)
    server.kill()
    unreachable = machine("plan", "--file", str(file))
    assert unreachable.returncode == 1
    assert "can be reached" in unreachable.stderr
    assert "Traceback" not in unreachable.stderr
    server.start()
    first = machine("run", "--file", str(file))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 stages to run" in first.stdout

    again = Machine(tmp_path, server, prefect_api)("plan", "--file", str(file))
    assert "0 of 2 stages to run" in again.stdout, "another machine finds both"
    shown = machine("show", "second")
    assert shown.returncode == 0, shown.stderr
    traced = machine("trace", "second")
    assert traced.returncode == 0, traced.stderr
    kept = {path.relative_to(server.folder / BUCKET / "recipe").parts[0] for path in server.folder.rglob("index.html")}
    assert kept == {"runs"}
    everything = "".join(done.stdout + done.stderr for done in (unreachable, first, again, shown, traced))
    for secret in (KEY, SECRET):
        assert secret not in everything
        for root in (server.folder, machine.folder, Path(os.environ["PREFECT_HOME"])):
            held = [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
            assert not held, f"{secret} is written in {held}"
