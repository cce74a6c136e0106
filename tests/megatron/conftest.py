"""Tiny real models and data for the Megatron tests."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.data.indexed_dataset import write_indexed_dataset
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import OptimizerConfig

LAYOUTS = [
    parity.Layout(1),
    parity.Layout(2),
    parity.Layout(2, tp=2),
    parity.Layout(2, pp=2),
    parity.Layout(4, tp=2, pp=2, sp=True),
    parity.Layout(2, pp=2, vp=2),
    parity.Layout(1, recompute=True),
    parity.Layout(4, tp=2, pp=2, vp=2, sp=True, recompute=True),
]


@pytest.fixture(scope="session")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, parity.Trace]:
    """Every layout's three steps, with the state after the first; one set of processes per number of ranks."""
    return parity.trace_layouts(LAYOUTS, tmp_path_factory.mktemp("layouts"))


@pytest.fixture
def open_trainer() -> Iterator[Callable[..., Trainer]]:
    """Open trainers of one rank."""

    def open_one(**changes: Any) -> Trainer:
        arguments: dict[str, Any] = {
            "model": parity.MODEL,
            "vocab_size": parity.VOCABULARY,
            "optimizer": OptimizerConfig(),
            "schedule": LrSchedule(peak=1e-2, floor=1e-4, total=20, warmup=2, shape="cosine"),
            "runtime": Runtime(),
            "seed": 7,
        }
        return Trainer.open(**(arguments | changes))

    torch.set_num_threads(1)
    parallel.teardown()
    yield open_one
    parallel.teardown()


def write_mixture(directory: Path) -> Path:
    """Write a TokenizedMixture whose token values tell set and document: id = 10 + 40 * set + document.

    Held-out documents look like the first set's; half of them are the better half.
    """
    directory.mkdir()
    rng = np.random.default_rng(0)
    sets: list[dict[str, Any]] = []
    sizes = (("hq-code", 30), ("mq-web", 20), ("validation", 12), ("validation-hq", 6))
    for number, (name, documents) in enumerate(sizes):
        contents = [
            np.append(np.full(int(rng.integers(5, 40)), 10 + 40 * (number % 2) + document), 0)
            for document in range(documents)
        ]
        tokens = write_indexed_dataset(directory / name, contents, parity.VOCABULARY)
        sets.append({"name": name, "tier": name[:2], "category": name[3:], "tokens": tokens, "documents": documents})
    both = {"hq-code": 0.6, "mq-web": 0.4}
    description = {
        "tokenizer_fingerprint": "tokens",
        "vocab_size": parity.VOCABULARY,
        "sets": sets[:2],
        "phases": {"warmup": both, "diverse_stable": both, "hq_stable": {"hq-code": 1.0}, "decay": {"hq-code": 1.0}},
        "validation": {"name": "validation", "tokens": sets[2]["tokens"]},
        "validation_hq": {"name": "validation-hq", "tokens": sets[3]["tokens"]},
    }
    (directory / "mixture.json").write_text(json.dumps(description))
    return directory


@pytest.fixture
def mixture_dir(tmp_path: Path) -> Path:
    """A small TokenizedMixture."""
    return write_mixture(tmp_path / "mixture")
