"""A tiny real trainer for the tests of this room."""

from collections.abc import Iterator

import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import OptimizerConfig


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    torch.set_num_threads(1)
    parallel.teardown()
    yield Trainer.open(
        model=parity.MODEL,
        vocab_size=parity.VOCABULARY,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-2, total=20),
        runtime=Runtime(micro_batch_size=2),
        seed=7,
    )
    parallel.teardown()
