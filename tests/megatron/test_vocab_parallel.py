from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.parity import run_ranks
from nanbeige_core.megatron.vocab_parallel import (
    mask_padding,
    vocab_parallel_log_probs,
    vocab_parallel_log_softmax,
    vocab_parallel_sum,
)

REAL, COLUMNS = 6, 8


@pytest.fixture
def one_rank() -> Iterator[None]:
    parallel.initialize(Runtime(), seed=0)
    yield
    parallel.teardown()


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits_BSV = torch.randn(2, 3, COLUMNS, generator=generator, dtype=dtype) * 3
    return logits_BSV, torch.randint(0, REAL, (2, 3), generator=generator)


def kl_to_teacher(logits_BSV_tp: Tensor, teacher_BSV_tp: Tensor) -> Tensor:
    logq = vocab_parallel_log_softmax(logits_BSV_tp, REAL)
    logp = vocab_parallel_log_softmax(teacher_BSV_tp, REAL)
    return vocab_parallel_sum((logp.exp() * (logp - logq)).sum(-1)).sum()


def gradients(part: slice) -> dict[str, Tensor]:
    logits, labels = inputs()
    teacher = inputs()[0].flip(1)
    found: dict[str, Tensor] = {}
    for name in ("log_probs", "kl"):
        shard = logits[..., part].clone().requires_grad_()
        if name == "log_probs":
            value = (vocab_parallel_log_probs(shard, labels, REAL) * torch.tensor([1.0, -2.0, 0.5])).sum()
        else:
            value = kl_to_teacher(shard, teacher[..., part])
        value.backward()
        assert shard.grad is not None
        found |= {name: value.detach(), f"{name} gradient": shard.grad}
    return found


def at_tp2(rank: int) -> dict[str, Any]:
    parallel.initialize(Runtime(tensor_parallel=2), seed=0)
    half = COLUMNS // 2
    mine = slice(rank * half, (rank + 1) * half)
    return gradients(mine) | {"oracle": cross_entropies(mine)}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return run_ranks(2, at_tp2, tmp_path_factory.mktemp("tp2"))


@pytest.mark.parametrize("name", ["log_probs", "kl"])
def test_sharded_gradients_are_the_unsharded_gradient(sharded: list[Any], one_rank: None, name: str) -> None:
    joined = torch.cat([part[f"{name} gradient"] for part in sharded], dim=-1)
    torch.testing.assert_close(joined, gradients(slice(None))[f"{name} gradient"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["log_probs", "kl"])
def test_every_shard_has_the_whole_value(sharded: list[Any], one_rank: None, name: str) -> None:
    for part in sharded:
        torch.testing.assert_close(part[name], gradients(slice(None))[name])


def cross_entropies(part: slice) -> list[Tensor]:
    """Value and gradient of ours, then of Megatron's; no padding, which Megatron's gives mass."""
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    logits, labels = inputs()
    weight_BS = torch.tensor([1.0, -2.0, 0.5])
    found: list[Tensor] = []
    for name in ("ours", "theirs"):
        shard = logits[..., part].clone().requires_grad_()
        if name == "ours":
            value_BS = -vocab_parallel_log_probs(shard, labels, COLUMNS)
        else:
            value_BS = vocab_parallel_cross_entropy(shard.clone(), labels)
        (value_BS * weight_BS).sum().backward()
        assert shard.grad is not None
        found += [value_BS.detach(), shard.grad]
    return found


def test_cross_entropy_is_megatrons(sharded: list[Any], one_rank: None) -> None:
    for value, gradient, expected, wanted in (cross_entropies(slice(None)), *(part["oracle"] for part in sharded)):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_log_probs_pass_gradcheck(one_rank: None) -> None:
    logits, labels = inputs(torch.float64)
    assert torch.autograd.gradcheck(lambda z: vocab_parallel_log_probs(z, labels, REAL), logits.requires_grad_())


def test_log_softmax_passes_gradcheck(one_rank: None) -> None:
    logits, _ = inputs(torch.float64)

    def real_columns(z: Tensor) -> Tensor:
        return vocab_parallel_log_softmax(z, REAL)[..., :REAL]

    assert torch.autograd.gradcheck(real_columns, logits.requires_grad_())


def test_padded_columns_have_no_mass_and_no_gradient(one_rank: None) -> None:
    logits, labels = inputs()
    logits[..., REAL:] = 50.0
    shard = logits.requires_grad_()
    logp = vocab_parallel_log_probs(shard, labels, REAL)
    logp.sum().backward()
    assert shard.grad is not None
    torch.testing.assert_close(logp, logits[..., :REAL].log_softmax(-1).gather(-1, labels[..., None])[..., 0])
    assert (shard.grad[..., REAL:] == 0).all()


def test_masked_logits_need_no_vocabulary_size(one_rank: None) -> None:
    logits, labels = inputs()
    masked = mask_padding(logits, REAL)
    assert torch.equal(
        vocab_parallel_log_probs(masked, labels, COLUMNS), vocab_parallel_log_probs(logits, labels, REAL)
    )


def ten_times(rank: int) -> int:
    return rank * 10


def test_every_rank_answers(tmp_path: Path) -> None:
    assert run_ranks(2, ten_times, tmp_path) == [0, 10]
