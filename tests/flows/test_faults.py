"""Faults around a run at a short size: one stage, real commands, a server of their own."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.faults.kinds import SERVER_KINDS
from nanbeige_core.faults.__main__ import break_runs
from nanbeige_core.faults.laboratory import Laboratory
from nanbeige_core.faults.results import fault_table
from tests.flows.service import write_recipe
from tests.flows.test_pipeline import nanbeige

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def laboratory(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    """Offer the reference run of one stage, and the session's migrated database, which saves half a minute."""
    folder = tmp_path_factory.mktemp("around")
    (folder / "prefect-template").mkdir()
    template = Path(os.environ["PREFECT_HOME"]) / "prefect.db"
    with (
        closing(sqlite3.connect(template)) as source,
        closing(sqlite3.connect(folder / "prefect-template/prefect.db")) as target,
    ):
        source.backup(target)
    with Laboratory(folder, until="ingest") as made:
        yield made


@pytest.mark.parametrize("kind", ["server killed", "database locked", "two flows at one key"])
def test_a_run_comes_through(laboratory: Laboratory, kind: str) -> None:
    results = break_runs(laboratory, {kind: 1}, seed=7, kinds=SERVER_KINDS)
    assert all(result.good for result in results), fault_table(results)


def test_a_server_that_does_not_answer_is_named_with_the_way_on(tmp_path: Path) -> None:
    run = nanbeige("run", "--file", str(write_recipe(tmp_path)), cwd=tmp_path, api="http://127.0.0.1:9/api")
    assert run.returncode == 1
    assert "the Prefect server at http://127.0.0.1:9/api does not answer" in run.stderr
    assert "Run the same command again" in run.stderr
    assert "Traceback" not in run.stderr
