"""The three executors on what only they have: nodes and lost processes of a Ray cluster, failing ranks of an array."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanbeige_core.data.dedup.paragraphs import find_repeated_paragraphs
from nanbeige_core.data.dedup.run import deduplicate
from nanbeige_core.data.dedup.settings import DedupSettings
from nanbeige_core.data.dedup.signatures import sign_shard
from nanbeige_core.data.document_table import DocumentTable
from nanbeige_core.data.document_table_build import TableSettings, build_table
from nanbeige_core.data.executors import ArrayRank, ExecutorError, LocalPool, RayTasks, Result, run_phase
from nanbeige_core.data.tables import TableError, write_shards
from tests.data.test_dedup import COLUMNS, corpus, evidence, find, write
from tests.data.test_embedding import DOCUMENT_SCHEMA, documents


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for item in sockets:
        item.bind(("127.0.0.1", 0))
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayTasks]:
    """Return the executor on a Ray cluster of this machine: a head node with two workers, reached by its address."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_MODE", "disabled")
        # a node whose agents have no fixed ports ends itself when a busy machine starts them too late
        names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port", "metrics_export_port")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False, **ports}
        started = Cluster(initialize_head=True, head_node_args=node)
        try:
            yield RayTasks(started.address)
        finally:
            ray.shutdown()
            started.shutdown()


def test_the_workers_of_a_ray_cluster_find_the_ids_of_one_process(cluster: RayTasks, tmp_path: Path) -> None:
    # functions of a test module travel by value; those of the package are imported where they run
    def report_process(seconds: float) -> Result:
        time.sleep(seconds)
        return {"process": os.getpid()}

    placed = {item["process"] for item in run_phase(cluster, tmp_path / "where", report_process, [1.0] * 4)}
    assert len(placed) == 2
    assert os.getpid() not in placed

    rows = [*corpus(), *(row._replace(id=f"{row.id}-again") for row in corpus()[:9])]
    alone = find(tmp_path / "alone", rows)
    shards = write(tmp_path / "in", rows[::-1], 3, "jsonl")
    result = deduplicate(shards, tmp_path / "ray", DedupSettings(), columns=COLUMNS, executor=cluster)
    assert evidence(result) == evidence(alone)

    cuts = [
        find_repeated_paragraphs(shards, tmp_path / name, characters=100, columns=COLUMNS, executor=executor)
        for name, executor in (("p1", LocalPool(1)), ("p2", cluster))
    ]
    assert cuts[0].num_rows == 9
    assert cuts[0].equals(cuts[1])


def test_the_workers_of_a_ray_cluster_build_the_document_table_of_one_process(
    cluster: RayTasks, tmp_path: Path
) -> None:
    write_shards(tmp_path / "in", DOCUMENT_SCHEMA, documents(), rows_per_file=60)
    tables = [
        DocumentTable(
            build_table(
                tmp_path / "in",
                tmp_path / f"rows{rows}",
                embedding=None,
                executor=executor,
                settings=TableSettings(vector_size=16, fragment_rows=rows),
            )
        )
        for executor, rows in ((LocalPool(2), 1000), (cluster, 1))
    ]
    assert [len(list(table.folder.glob("documents.lance/data/*"))) for table in tables] == [1, 3]
    for row in documents()[:10]:
        vectors = [table.embed([row["text"]])[0] for table in tables]
        alone, ray = (table.search(row["text"], vector_V, 40) for table, vector_V in zip(tables, vectors, strict=True))
        assert len(alone) == 40
        assert alone == ray


def test_a_task_on_ray_outlives_its_process_and_raises_what_it_raises_anywhere(
    cluster: RayTasks, tmp_path: Path
) -> None:
    def die_once(marker: str) -> Result:
        if not Path(marker).exists():
            Path(marker).touch()
            os._exit(9)
        return {"process": os.getpid()}

    (survived,) = run_phase(cluster, tmp_path / "die", die_once, [str(tmp_path / "died")])
    assert survived["process"] != os.getpid()

    shards = write(tmp_path / "in", corpus(), 3)
    shards[1].write_bytes(shards[1].read_bytes()[:-40])
    with pytest.raises(TableError, match=r"1\.parquet.*half written"):
        deduplicate(shards, tmp_path / "work", DedupSettings(), columns=COLUMNS, executor=cluster)


def test_a_ray_cluster_that_is_not_there_is_an_error_that_says_how_to_start_one() -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    ray.shutdown()
    with pytest.raises(ExecutorError, match="ray start --head"):
        RayTasks("127.0.0.1:1").run(sign_shard, [], [])


RANK = """
import sys
from pathlib import Path
from nanbeige_core.data.executors import ArrayRank, run_phase

def work(task):
    if task == 1 and sys.argv[3] == "first":
        raise ValueError("the disk of this rank is full.")
    return {"task": task}

rank = ArrayRank(int(sys.argv[2]), 2, 60, 0.02, job=sys.argv[3])
assert run_phase(rank, Path(sys.argv[1]), work, [0, 1, 2]) == [{"task": n} for n in range(3)]
"""


def test_a_rank_that_fails_ends_the_array_and_not_the_next_one(tmp_path: Path) -> None:
    def submit(job: str) -> list[subprocess.Popen[str]]:
        command = [sys.executable, "-c", RANK, str(tmp_path / "phase")]
        return [subprocess.Popen([*command, str(rank), job], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]

    start = time.monotonic()
    waiting, failing = submit("first")
    said = waiting.communicate(timeout=50)[1]
    assert (waiting.returncode, failing.wait(50)) == (1, 1)
    assert "rank 1 of this array failed with ValueError: the disk of this rank is full." in said
    assert time.monotonic() - start < 50
    assert [rank.wait(50) for rank in submit("second")] == [0, 0]


def test_a_rank_beyond_the_array_is_refused() -> None:
    with pytest.raises(ExecutorError, match="--array=0-2"):
        ArrayRank(3, 3)
