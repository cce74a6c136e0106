from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nanbeige_core.megatron import device
from nanbeige_core.megatron.schedule import LrSchedule, attach_schedule
from nanbeige_core.megatron.trainer import Trainer

device.activate()


def stub_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine", "minus_sqrt", "exponential"])
def test_megatrons_scheduler_follows_the_schedule_at_every_step(shape: Any) -> None:
    schedule = LrSchedule(peak=4.5e-4, floor=1.5e-6, total=230, warmup=10, decay=40, shape=shape)
    optimizer = stub_optimizer()
    scheduler = attach_schedule(optimizer, schedule, weight_decay=0.1)
    for step in range(1, 240):
        scheduler.step(1)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.rate(step), rel=1e-9)


def test_wsd_reaches_the_floor_exactly() -> None:
    schedule = LrSchedule(peak=4.5e-4, floor=1.5e-6, total=23_000, warmup=100, decay=4_000, shape="linear")
    assert schedule.rate(19_000) == 4.5e-4
    assert schedule.rate(21_000) == pytest.approx((4.5e-4 + 1.5e-6) / 2)
    assert schedule.rate(23_000) == pytest.approx(1.5e-6)


def test_the_exponential_decay_is_geometric() -> None:
    schedule = LrSchedule(peak=1e-2, floor=1e-6, total=100, decay=100, shape="exponential")
    assert schedule.rate(50) == pytest.approx(1e-4)


def test_a_loaded_max_lr_does_not_beat_the_schedule() -> None:
    optimizer = stub_optimizer()
    optimizer.param_groups[0]["max_lr"] = 3e-4
    attach_schedule(optimizer, LrSchedule(peak=4.5e-4, total=10), weight_decay=0.0).step(1)
    assert optimizer.param_groups[0]["lr"] == 4.5e-4


def test_parts_longer_than_the_total_are_refused() -> None:
    with pytest.raises(ValidationError, match="exceed total"):
        LrSchedule(peak=1.0, total=10, warmup=6, decay=5, shape="linear")


def test_weight_decay_spares_norms_and_embeddings(open_trainer: Callable[..., Trainer]) -> None:
    trainer = open_trainer()
    decayed: dict[bool, int] = {True: 0, False: 0}
    for group in trainer.optimizer.param_groups:
        decayed[group["weight_decay"] > 0] += sum(parameter.numel() for parameter in group["params"])
    named = dict(trainer.model.parts[0].module.named_parameters())
    spared = sum(p.numel() for name, p in named.items() if p.dim() == 1 or "word_embeddings" in name)
    assert decayed == {True: sum(p.numel() for p in named.values()) - spared, False: spared}
