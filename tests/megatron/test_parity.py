import pytest

from nanbeige_core.megatron import parity

OTHERS = [
    *("TP1 PP1 DP2", "TP2 PP1 DP1", "TP1 PP2 DP1", "TP2 PP2 DP1 SP"),
    *("TP1 PP2x2 DP1", "TP1 PP1 DP1 recompute", "TP2 PP2x2 DP1 SP recompute"),
]


@pytest.fixture(scope="module")
def rows(traces: dict[str, parity.Trace]) -> dict[str, dict[str, float]]:
    return {row["layout"]: row for row in parity.compare(traces)}


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_losses(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["loss difference"] <= parity.LOSS_TOLERANCE


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_gradient_norms(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["norm difference"] <= parity.GRADIENT_TOLERANCE


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_gradient_in_every_weight(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["gradient difference"] <= parity.GRADIENT_TOLERANCE


def test_a_wrong_gradient_is_no_parity(traces: dict[str, parity.Trace]) -> None:
    one, other = traces["TP1 PP1 DP1"], traces["TP2 PP1 DP1"]
    wrong = other._replace(grad_norms=[norm * 1.0001 for norm in other.grad_norms])
    assert [row["same"] for row in parity.compare({"one": one, "other": other, "wrong": wrong})] == [True, True, False]


def test_context_parallelism_is_refused_with_the_reason() -> None:
    (row,) = parity.refused_layouts()
    assert "ring attention" in row["refused"]
    assert "sequence_parallel" in row["refused"]
