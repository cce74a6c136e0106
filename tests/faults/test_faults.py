"""The fault harness at a short size: one stage, every kind of fault, twice."""

from collections.abc import Iterator

import pytest

from nanbeige_core.faults.__main__ import break_runs
from nanbeige_core.faults.kinds import KINDS
from nanbeige_core.faults.laboratory import Laboratory
from nanbeige_core.faults.results import MENDED, Result, fault_table


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with Laboratory(tmp_path_factory.mktemp("faults"), until="ingest") as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_mends_after(laboratory: Laboratory, kind: str) -> None:
    results = break_runs(laboratory, {kind: 2}, seed=7)
    assert all(result.good for result in results), fault_table(results)


def test_the_table_counts_and_names_what_is_wrong() -> None:
    results = [Result("worker killed", "ingest", MENDED), Result("worker killed", "dpd", "another artifact: a")]
    table = fault_table(results)
    assert "| worker killed | 2 | 1 | 0 | 0 | 1 |" in table
    assert "- worker killed, dpd: another artifact: a" in table
