import pytest

from nanbeige_core.megatron import parity

OTHERS = ["TP1 PP1 DP2", "TP2 PP1 DP1", "TP1 PP2 DP1", "TP2 PP2 DP1 SP"]


@pytest.fixture(scope="module")
def rows(traces: dict[str, parity.Trace]) -> dict[str, dict[str, float]]:
    return {row["layout"]: row for row in parity.compare(traces)}


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_losses(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["loss difference"] < 1e-6


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_gradient_norms(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["norm difference"] < 1e-5


@pytest.mark.parametrize("layout", OTHERS)
def test_every_layout_has_the_same_gradient_in_every_weight(rows: dict[str, dict[str, float]], layout: str) -> None:
    assert rows[layout]["gradient difference"] < 1e-5
