from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanbeige_core.megatron.blend import Blend, Mixture
from nanbeige_core.megatron.even_blend import CountedBlend, even_blends, fine_grained_tokens
from nanbeige_core.megatron.pretrain import open_phase
from nanbeige_core.recipe.configs.pretrain import PHASES, AbfConfig, FgwsdConfig, PhaseTokens


def config(phase: Any = "warmup", **changes: Any) -> FgwsdConfig:
    values: dict[str, Any] = {
        "phase": phase,
        "phase_tokens": PhaseTokens(warmup=64, diverse_stable=640, hq_stable=320, decay=320),
        "sequence_length": 16,
        "global_batch_size": 4,
        "abf": AbfConfig(theta=1e6, sequence_length=32, fraction=0.4),
        "validation_sequences": 4,
    }
    return FgwsdConfig(**(values | changes))


def tokens_read(mixture: Mixture, blend: str) -> tuple[Counter[tuple[str, int]], list[Counter[str]]]:
    """Every (set, stream position) a run's four phases read, and how often each phase read each set."""
    seen: Counter[tuple[str, int]] = Counter()
    per_phase: list[Counter[str]] = []
    ledger: dict[str, int] = {}
    for name in PHASES:
        phase = open_phase(config(name, blend=blend), mixture, ledger)
        per_phase.append(Counter())
        for step in range(phase.source.plan.steps):
            span, positions = phase.source.step_samples(step)
            phase.cursors.record(span, positions, step=step)
            for chosen, token in positions:
                stream = phase.source.streams[chosen]
                seen.update((stream.name, place) for place in range(token, token + span.sequence_length))
                per_phase[-1][stream.name] += span.sequence_length
        ledger |= phase.cursors.finish()
    return seen, per_phase


def test_vanilla_wsd_sees_the_same_tokens_in_another_order(mixture_dir: Path) -> None:
    mixture = Mixture.open(mixture_dir)
    (fine, fine_phases), (even, even_phases) = (tokens_read(mixture, blend) for blend in ("fine_grained", "even"))
    assert fine == even
    assert set(fine.values()) == {1}
    assert fine_phases != even_phases


def test_the_even_arm_has_the_same_blend_in_every_phase(mixture_dir: Path) -> None:
    _, per_phase = tokens_read(Mixture.open(mixture_dir), "even")
    shares = [phase["hq-code"] / sum(phase.values()) for phase in per_phase]
    whole = sum(phase["hq-code"] for phase in per_phase) / 1344
    # a share is rounded to whole samples of a phase
    assert all(abs(share - whole) <= 32 / sum(phase.values()) for share, phase in zip(shares, per_phase, strict=True))


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0))
@settings(max_examples=80, deadline=None)
def test_a_counted_blend_draws_exactly_its_counts_without_gap(counts: list[int]) -> None:
    blend = CountedBlend(counts)
    drawn: Counter[int] = Counter()
    for index in range(sum(counts)):
        chosen, before = blend.sample(index)
        assert before == drawn[chosen]
        drawn[chosen] += 1
    assert [drawn[number] for number in range(len(counts))] == counts


def test_a_counted_blend_longer_than_its_pattern_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blend, "PATTERN", 10)
    counts = [97, 31, 3]
    blend = CountedBlend(counts)
    drawn = np.bincount([blend.sample(index)[0] for index in range(131)], minlength=3)
    assert drawn.tolist() == counts
    last, before = blend.sample(130)
    assert before == counts[last] - 1


def test_the_reports_run_is_shared_exactly() -> None:
    """23 T tokens at 4,096 and 65,536: counts beyond 32 bits, sets of very different sizes."""
    whole = {"hq-web": 0.7, "hq-math": 0.299999, "mq-web": 0.000001}
    mixture = {"phases": dict.fromkeys(PHASES, whole) | {"hq_stable": {"hq-web": 0.4, "hq-math": 0.6}}}
    report = [FgwsdConfig.model_validate({"phase": phase, "blend": "even"}) for phase in PHASES]
    wanted = fine_grained_tokens(report[0], mixture)
    found: Counter[str] = Counter()
    for one in report:
        names, blends = even_blends(one, mixture)
        lengths = [4096, 65536] if one.phase == "decay" else [4096]
        for blend, length in zip(blends, lengths, strict=True):
            found.update(dict(zip(names, (blend.counts * length).tolist(), strict=True)))
    assert found == wanted


def test_windows_that_share_no_unit_are_refused(mixture_dir: Path) -> None:
    odd = config(blend="even", abf=AbfConfig(theta=1e6, sequence_length=16, fraction=0.4), sequence_length=32)
    with pytest.raises(ValueError, match="multiple of sequence_length"):
        even_blends(odd, Mixture.open(mixture_dir).content)
