import json
import multiprocessing
import multiprocessing.queues
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nanbeige_core.artifacts.manifest import MANIFEST_NAME
from nanbeige_core.artifacts.references import CheckpointRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError, StageError
from nanbeige_core.launch.execute import Order, execute
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.prefork import WorkerProcess
from nanbeige_core.launch.start import start_worker
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import make_plan


def corpus_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    rows = [{"text": f"Document {n}. " + "The quick brown fox jumps over the lazy dog. " * 4} for n in range(20)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def ingest_order(tmp_path: Path, *, launcher: str = "process", path: Path | None = None, forced: bool = False) -> Order:
    source = {"type": "path", "path": str(path or corpus_file(tmp_path)), "category": "web", "language": "en"}
    recipe_path = tmp_path / "pipelines.yaml"
    tree = {
        "recipe": "one stage",
        "stages": {"ingest": {"config": {"sources": [source]}, "runtime": {"launcher": launcher}}},
        "profiles": {"laptop": {"title": "small"}},
    }
    recipe_path.write_text(json.dumps(tree))
    recipe = load_recipe(recipe_path, profile="laptop")
    planned = make_plan(recipe, Store(tmp_path / "store", tmp_path / "cache")).stages["ingest"]
    return Order(
        stage="ingest",
        uses="ingest",
        identity=planned.identity,
        fingerprint=planned.fingerprint,
        config=planned.stage.config.model_dump(mode="json"),
        runtime=planned.stage.runtime.model_dump(mode="json"),
        forced=forced,
    )


@pytest.mark.parametrize("launcher", ["inline", "process", "elastic"])
def test_every_launcher_makes_the_same_artifact(tmp_path: Path, store: Store, launcher: str) -> None:
    made = execute(ingest_order(tmp_path, launcher=launcher), {}, store)
    assert made.executed
    assert made.manifest.outcome.counts
    data = {name: entry.sha256 for name, entry in made.manifest.files.items() if name.startswith("documents/")}
    again = execute(ingest_order(tmp_path, launcher="process", forced=True), {}, store)
    assert {n: e.sha256 for n, e in again.manifest.files.items() if n.startswith("documents/")} == data


def test_a_second_execution_finds_the_first(tmp_path: Path, store: Store) -> None:
    first = execute(ingest_order(tmp_path), {}, store)
    second = execute(ingest_order(tmp_path), {}, store)
    assert (second.executed, second.manifest.digest) == (False, first.manifest.digest)


def test_force_makes_again_what_was_made_while_the_clock_was_ahead(tmp_path: Path, store: Store) -> None:
    first = execute(ingest_order(tmp_path, launcher="inline"), {}, store).manifest
    path = store.local_path(first) / MANIFEST_NAME
    path.write_text(first.model_copy(update={"started": "2999-01-01T00:00:00+00:00"}).model_dump_json())
    again = execute(ingest_order(tmp_path, launcher="inline", forced=True), {}, store)
    assert again.executed
    assert again.manifest.started < "2999"


WORKER_THAT_TELLS = """
import os, sys
from nanbeige_core.launch.worker import main
status = main(sys.argv[1], os.getppid())
print(os.environ["CUDA_VISIBLE_DEVICES"])
sys.exit(status)
"""


def test_a_worker_sees_the_gpus_it_was_given_alone(tmp_path: Path, store: Store) -> None:
    told = tmp_path / "told.txt"

    def start(file: JobFile) -> WorkerProcess:
        with told.open("wb") as stream:
            return subprocess.Popen([sys.executable, "-c", WORKER_THAT_TELLS, str(file.path)], stdout=stream)

    assert execute(ingest_order(tmp_path), {}, store, start=start, gpus=("2", "5")).executed
    assert told.read_text().split() == ["2,5"]


def test_the_report_is_part_of_the_artifact(tmp_path: Path, store: Store) -> None:
    made = execute(ingest_order(tmp_path), {}, store)
    assert {"report.md", "report.html"} <= set(made.manifest.files)


def test_an_unreadable_corpus_fails_with_its_file_and_the_way_on(tmp_path: Path, store: Store) -> None:
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 this is no parquet file PAR1")
    with pytest.raises(StageError, match=r"(?s)ingest failed.*broken\.parquet.*nanbeige run --from ingest"):
        execute(ingest_order(tmp_path, path=broken), {}, store)


def test_a_failed_stage_serves_nothing(tmp_path: Path, store: Store) -> None:
    order = ingest_order(tmp_path, path=tmp_path / "absent.jsonl")
    with pytest.raises(StageError):
        execute(order, {}, store)
    assert store.find("ingest", order.fingerprint) is None


def test_a_stage_that_fails_on_damaged_work_begins_anew_and_one_that_fails_on_whole_work_does_not(
    tmp_path: Path, store: Store
) -> None:
    order = ingest_order(tmp_path)
    poison = store.work_directory("ingest", order.fingerprint) / "scratch" / "poison"
    poison.parent.mkdir(parents=True)
    poison.touch()

    def start(file: JobFile) -> WorkerProcess:
        return subprocess.Popen(["false"]) if poison.exists() else start_worker(file)

    with pytest.raises(StageError, match="ingest"):
        execute(order, {}, store, start=start)
    assert poison.exists()
    poison.with_name("cut.json").write_text('{"rows": [')
    said: list[str] = []
    assert execute(order, {}, store, start=start, log=said.append).executed
    assert "scratch/cut.json" in said[0]
    assert "from the beginning" in said[1]


def test_an_input_of_the_wrong_type_is_refused_before_anything_runs(store: Store) -> None:
    order = Order("tags", "quality_tagging", {}, "c" * 64, {}, {})
    wrong = CheckpointRef(stage="x", fingerprint="a" * 64, digest="b" * 64)
    with pytest.raises(ArtifactError, match="input corpus is x/a.*a Checkpoint.*consumes a Corpus"):
        execute(order, {"corpus": wrong}, store)


def run_and_report(tmp_path: Path, queue: "multiprocessing.queues.Queue[bool]") -> None:
    store = Store(tmp_path / "store", tmp_path / "cache")
    queue.put(execute(ingest_order(tmp_path), {}, store).executed)


def test_two_processes_at_one_key_execute_once(tmp_path: Path) -> None:
    corpus_file(tmp_path)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    runs = [context.Process(target=run_and_report, args=(tmp_path, queue)) for _ in range(2)]
    for run in runs:
        run.start()
    executed = sorted(queue.get(timeout=120) for _ in runs)
    for run in runs:
        run.join()
    assert executed == [False, True]


def test_a_store_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the store should be")
    with pytest.raises(ArtifactError, match=r"(?s)ingest.*blocked.*run the same command again"):
        execute(ingest_order(tmp_path), {}, Store(blocked, tmp_path / "cache"))
    assert blocked.is_file()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small file system needs privileges: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("room", [0, 12 << 10, 24 << 10])
def test_a_disk_that_fills_up_is_named_and_nothing_half_written_is_served(
    tmp_path: Path, small_disk: Path, room: int
) -> None:
    store = Store(small_disk / "store", tmp_path / "cache")
    order = ingest_order(tmp_path)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as stream:  # all the room there is
        while True:
            stream.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - room)
    with pytest.raises((StageError, ArtifactError), match="disk is full"):
        execute(order, {}, store)
    assert store.find("ingest", order.fingerprint) is None
    ballast.unlink()
    assert execute(order, {}, store).executed
