import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.flows.service import write_recipe
from tests.launch.test_execute import corpus_file

pytestmark = pytest.mark.server


def recipe_file(tmp_path: Path, path: Path | None = None) -> Path:
    source = {"type": "path", "path": str(path or corpus_file(tmp_path)), "category": "web", "language": "en"}
    tree = {
        "recipe": "two stages",
        "stages": {
            "ingest": {"config": {"sources": [source]}},
            "second": {"uses": "ingest", "config": {"sources": [source], "seed": 5}},
        },
        "profiles": {"laptop": {"title": "small"}},
    }
    file = tmp_path / "pipelines.yaml"
    file.write_text(json.dumps(tree))
    return file


def nanbeige(*arguments: str, cwd: Path, api: str, timeout: float = 300) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def wait_until_gone(words: str, seconds: float = 20) -> bool:
    """Wait until no process has `words` in its command line."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if subprocess.run(["pgrep", "-f", words], capture_output=True, check=False).returncode == 1:
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def ran(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the recipe once; return the folder of recipe and store."""
    folder = tmp_path_factory.mktemp("ran")
    first = nanbeige("run", "--file", str(recipe_file(folder)), cwd=folder, api=prefect_api)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "2 of 2 stages to run" in first.stdout
    return folder


def run_on_a_copy(ran: Path, folder: Path, api: str) -> "subprocess.CompletedProcess[str]":
    return nanbeige("run", "--file", str(ran / "pipelines.yaml"), cwd=folder, api=api)


def test_a_run_makes_every_artifact_and_the_next_one_none(prefect_api: str, ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran / "store", tmp_path / "store")
    second = run_on_a_copy(ran, tmp_path, prefect_api)
    assert second.returncode == 0
    assert "0 of 2 stages to run" in second.stdout
    pages = list((tmp_path / "store/runs").glob("*/index.html"))
    assert len(pages) == 2, "the first run's page, once by its id and once as the latest; none for a run of nothing"
    assert "2 of 2" in (tmp_path / "store/runs/latest/index.html").read_text()


def test_a_failed_stage_is_named_and_the_other_branch_goes_on(prefect_api: str, tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    tree = json.loads(file.read_text())
    tree["stages"]["second"]["config"]["sources"][0]["path"] = str(tmp_path / "absent.jsonl")
    file.write_text(json.dumps(tree))
    run = nanbeige("run", "--file", str(file), cwd=tmp_path, api=prefect_api)
    assert run.returncode == 1
    assert "stage second failed" in run.stderr
    assert "absent.jsonl" in run.stderr
    assert "/prefect/" not in run.stdout + run.stderr, "the way through the orchestrator is not told"
    assert "nanbeige run --from second" in run.stderr
    assert list((tmp_path / "store/ingest").glob("*/.artifact.json"))
    assert not list((tmp_path / "store/second").glob("*/.artifact.json"))
    page = (tmp_path / "store/runs/latest/index.html").read_text()
    assert "1 of 2 stages failed" in page
    assert "absent.jsonl" in page


def test_a_deleted_artifact_is_made_again(prefect_api: str, ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran / "store", tmp_path / "store")
    for path in (tmp_path / "store/second").glob("*/documents/*"):
        path.unlink()
    run = run_on_a_copy(ran, tmp_path, prefect_api)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 of 2 stages to run" in run.stdout
    assert list((tmp_path / "store/second").glob("*/documents/*"))


def test_a_killed_run_leaves_no_worker_and_is_gone_on_with(prefect_api: str, tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--file", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "store").glob("*/*.work/.control/job.json")):
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert wait_until_gone(str(tmp_path / "store"))
    again = nanbeige("run", "--file", str(file), cwd=tmp_path, api=prefect_api)
    assert again.returncode == 0, again.stdout + again.stderr


def test_only_without_its_upstream_names_what_is_missing_and_the_command_that_makes_it(tmp_path: Path) -> None:
    file = write_recipe(tmp_path)
    arguments = ["run", "--only", "quality_tagging", "--set", "ingest.seed=4", "--file", str(file)]
    run = nanbeige(*arguments, cwd=tmp_path, api="http://127.0.0.1:9/api")
    assert run.returncode == 2
    assert "quality_tagging needs the artifact of ingest (ingest/" in run.stderr
    assert "nanbeige run --until ingest --profile laptop --set ingest.seed=4" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--only", "ingst"], "did you mean 'ingest'"),
        (["run", "--set", "ingest.sed=1"], "did you mean 'seed'"),
        (["plan", "--profile", "lapto"], "did you mean 'laptop'"),
        (["show", "nothing"], "no artifact matches"),
        (["plan", "--file", "absent.yaml"], "no recipe file at absent.yaml"),
    ],
)
def test_a_wrong_request_is_one_clear_message(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = recipe_file(tmp_path)
    if "--file" not in arguments and arguments[0] != "show":
        arguments = [*arguments, "--file", str(file)]
    run = nanbeige(*arguments, cwd=tmp_path, api="http://127.0.0.1:9/api")
    assert run.returncode in (1, 2)
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_a_run_that_is_told_to_stop_ends_with_the_status_that_asks_for_another_go(
    prefect_api: str, tmp_path: Path
) -> None:
    file = recipe_file(tmp_path)
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--file", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PREFECT_API_URL": prefect_api},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list((tmp_path / "store").glob("*/*.work/.control/job.json")):
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    _, words = run.communicate(timeout=120)
    assert run.returncode == 75, words
    assert "run the same command again" in words
    assert wait_until_gone(str(tmp_path / "store"))
