from pathlib import Path

import pytest

from nanbeige_core.sft.chunks import run_chunks
from nanbeige_core.sft.order import NO_ROW, bins_of_rows, plan_steps, rows_of_rank


def silent(fraction: float, text: str) -> None:
    return None


def test_every_epoch_visits_every_row_once():
    steps = plan_steps(10, epochs=3, global_batch_size=4, seed=1)
    assert len(steps) == 9
    for epoch in range(3):
        assert sorted(row for step in steps[3 * epoch : 3 * epoch + 3] for row in step) == list(range(10))


def test_plan_is_a_function_of_the_seed():
    assert plan_steps(10, epochs=2, global_batch_size=4, seed=1) == plan_steps(
        10, epochs=2, global_batch_size=4, seed=1
    )
    assert plan_steps(10, epochs=2, global_batch_size=4, seed=1) != plan_steps(
        10, epochs=2, global_batch_size=4, seed=2
    )


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_a_step_completely_and_equally(ranks):
    parts = [rows_of_rank(list(range(7)), rank, ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1
    assert sorted(row for part in parts for row in part if row != NO_ROW) == list(range(7))


def test_missing_row_holds_no_sample():
    assert bins_of_rows([[3, 1]], [0, NO_ROW]) == [[3, 1], []]


def test_committed_chunks_are_not_done_again(tmp_path: Path):
    calls: list[int] = []

    def work(number: int, items: object) -> list[dict[str, object]]:
        calls.append(number)
        return [{"item": item} for item in items]  # type: ignore[attr-defined]

    settings = {"chunk_items": 3, "directory": tmp_path, "progress": silent}
    first = run_chunks(list(range(8)), work, **settings)
    (tmp_path / "000001.json").unlink()
    assert run_chunks(list(range(8)), work, **settings) == first
    assert calls == [0, 1, 2, 1]
    assert [row["item"] for row in first] == list(range(8))
