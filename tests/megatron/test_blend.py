from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nanbeige_core.megatron.blend import Blend, Mixture, make_batch
from nanbeige_core.megatron.pretrain import open_phase, rate_schedule
from nanbeige_core.recipe.configs.pretrain import PHASES, AbfConfig, FgwsdConfig, Phase, PhaseTokens
from nanbeige_core.recipe.phase_plan import plan_phase, step_boundaries


def config(phase: Phase = "warmup") -> FgwsdConfig:
    return FgwsdConfig(
        phase=phase,
        phase_tokens=PhaseTokens(warmup=64, diverse_stable=640, hq_stable=320, decay=320),
        sequence_length=16,
        global_batch_size=4,
        abf=AbfConfig(theta=1e6, sequence_length=32, fraction=0.4),
        validation_sequences=4,
    )


def test_a_blend_keeps_its_weights_in_every_prefix() -> None:
    blend = Blend([0.6, 0.3, 0.1], 1000)
    for samples in (10, 137, 1000):
        wanted = np.array([0.6, 0.3, 0.1]) * samples
        assert np.abs(np.array(blend.drawn(samples)) - wanted).max() <= 1.0


def test_a_blend_longer_than_its_pattern_goes_on_counting() -> None:
    blend = Blend([0.5, 0.5], 8)
    seen: Counter[int] = Counter()
    for index in range(40):
        chosen, before = blend.sample(index)
        assert before == seen[chosen]
        seen[chosen] += 1
    assert [seen[0], seen[1]] == blend.drawn(40)


def test_a_stream_shows_every_document_once_before_any_twice(mixture_dir: Path) -> None:
    stream = Mixture.open(mixture_dir).stream("hq-code", seed=1)
    epoch = stream.tokens_per_epoch
    documents = [
        number for start in range(0, epoch, 7) for number in stream.documents_between(start, min(start + 7, epoch))
    ]
    first_seen = list(dict.fromkeys(documents))
    assert sorted(first_seen) == list(range(30))
    assert sum(np.diff(documents) != 0) == 29


def test_a_stream_reads_the_same_tokens_in_any_pieces(mixture_dir: Path) -> None:
    stream = Mixture.open(mixture_dir).stream("mq-web", seed=1)
    whole = stream.read(0, 2 * stream.tokens_per_epoch + 5)
    pieces = [stream.read(start, min(13, len(whole) - start)) for start in range(0, len(whole), 13)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert sorted(whole[: stream.tokens_per_epoch]) == sorted(whole[stream.tokens_per_epoch : -5])


def test_phases_go_on_where_the_last_one_stopped(mixture_dir: Path) -> None:
    mixture = Mixture.open(mixture_dir)
    ledger: dict[str, int] = {}
    drawn: list[tuple[str, int]] = []
    for name in PHASES:
        phase = open_phase(config(name), mixture, ledger)
        for step in range(phase.source.plan.steps):
            span, positions = phase.source.step_samples(step)
            for position in positions:
                stream = phase.source.streams[position.set]
                drawn += [
                    (stream.name, token) for token in range(position.token, position.token + span.sequence_length)
                ]
        ledger |= dict(zip(phase.weights, phase.source.ends, strict=True))
    assert len(set(drawn)) == len(drawn) == 64 + 640 + 320 + 320
    assert Counter(name for name, _ in drawn) == ledger


def test_all_phases_share_one_rate_schedule() -> None:
    schedules = [rate_schedule(config(phase)) for phase in PHASES]
    assert all(schedule == schedules[0] for schedule in schedules)
    assert (schedules[0].warmup, schedules[0].total - schedules[0].decay_length, schedules[0].total) == (64, 1024, 1344)


def test_phase_steps_cover_the_run_without_gap() -> None:
    plans = [plan_phase(config(phase)) for phase in PHASES]
    begins = step_boundaries(config())
    assert [plan.first_step for plan in plans] == begins[:4]
    assert sum(plan.steps for plan in plans) == begins[4]


def test_decay_ends_at_the_extended_window_with_as_many_tokens_per_step() -> None:
    spans = plan_phase(config("decay")).spans
    assert [(span.steps, span.sequence_length, span.sequences_per_step) for span in spans] == [(3, 16, 4), (2, 32, 2)]


def test_a_masked_document_end_has_no_target() -> None:
    batch = make_batch([np.array([5, 6, 0, 7, 8])], end_of_document=0)
    assert batch.loss_mask_BS.tolist() == [[1, 1, 0, 1]]
    assert batch.segment_ids_BS is not None
    assert batch.segment_ids_BS.tolist() == [[0, 0, 0, 1]]


def test_a_phase_without_a_step_is_refused() -> None:
    empty = config().model_copy(
        update={"phase_tokens": PhaseTokens(warmup=1, diverse_stable=64, hq_stable=64, decay=64)}
    )
    with pytest.raises(ValueError, match="less than one step"):
        plan_phase(empty)
