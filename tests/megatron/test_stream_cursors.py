from pathlib import Path

import pytest

from nanbeige_core.megatron.blend import Mixture
from nanbeige_core.megatron.pretrain import Phase, open_phase
from nanbeige_core.megatron.stream_cursors import LedgerError
from nanbeige_core.recipe.configs.pretrain import AbfConfig, FgwsdConfig, PhaseTokens


@pytest.fixture
def phase(mixture_dir: Path) -> Phase:
    config = FgwsdConfig(
        phase="diverse_stable",
        phase_tokens=PhaseTokens(warmup=64, diverse_stable=256, hq_stable=64, decay=64),
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.4),
    )
    return open_phase(config, Mixture.open(mixture_dir), {"hq-code": 48})


def test_all_steps_in_order_end_where_the_ledger_ends(phase: Phase) -> None:
    for step in range(phase.source.plan.steps):
        phase.cursors.record(*phase.source.step_samples(step), step=step)
    planned = phase.source.planned()
    assert phase.cursors.finish() == dict(zip(planned.sets, planned.spans[-1].ends, strict=True))


@pytest.mark.parametrize(("taken", "word"), [([0, 2], "skipped"), ([0, 0], "seen twice")])
def test_a_sample_out_of_order_is_refused(phase: Phase, taken: list[int], word: str) -> None:
    phase.cursors.record(*phase.source.step_samples(taken[0]), step=0)
    with pytest.raises(LedgerError, match=word):
        phase.cursors.record(*phase.source.step_samples(taken[1]), step=1)


def test_a_phase_that_stopped_short_is_refused(phase: Phase) -> None:
    phase.cursors.record(*phase.source.step_samples(0), step=0)
    with pytest.raises(LedgerError, match="its plan ends at"):
        phase.cursors.finish()
