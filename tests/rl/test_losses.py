import math

import pytest
import torch
from torch import Tensor

from nanbeige_core.rl.losses import Clip, k3_divergence, policy_loss, token_weight

ONES = torch.ones(1, 1)


def single(log_ratio: float, advantage: float, *, clip: Clip = Clip(), gap: float = 0.0) -> float:  # noqa: B008
    """Return the loss of one token with new - old = log_ratio and old - gen = gap."""
    old = torch.tensor([[-1.0]])
    result = policy_loss(
        old + log_ratio, old - gap, torch.tensor([[advantage]]), ONES, old_BS=old, clip=clip, importance_cap=2.0
    )
    return float(result.losses_BS)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 1.0, -1.0),
        (1.1, 1.0, -1.1),
        (1.5, 1.0, -1.28),  # clip-higher acts
        (0.5, 1.0, -0.5),  # pessimistic: a low ratio with a positive advantage is not clipped
        (0.5, -1.0, 0.8),  # lower clip acts
        (1.5, -1.0, 1.5),
    ],
)
def test_clipped_loss_by_hand(ratio: float, advantage: float, loss: float) -> None:
    assert single(math.log(ratio), advantage) == pytest.approx(loss, rel=1e-6)


def test_dual_clip_bounds_the_loss_of_negative_advantages_only() -> None:
    assert single(math.log(9.0), -1.0, clip=Clip(dual=3.0)) == pytest.approx(3.0)
    assert single(math.log(9.0), 1.0, clip=Clip(dual=3.0)) == pytest.approx(-1.28)


def test_importance_weights_are_capped() -> None:
    assert single(0.0, 1.0, gap=math.log(1.5)) == pytest.approx(-1.5)
    assert single(0.0, 1.0, gap=math.log(50.0)) == pytest.approx(-2.0)


def random_case(seed: int, rows: int = 4, length: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    new = -torch.rand(rows, length, generator=generator, dtype=torch.float64) * 3
    gap = torch.randn(rows, length, generator=generator, dtype=torch.float64) * 0.01
    advantages = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    mask = (torch.rand(rows, length, generator=generator) < 0.7).double()
    return new, new - gap, advantages, mask


def test_strict_on_policy_gradient_is_that_of_minus_advantage_times_log_prob() -> None:
    new, _, advantages, mask = random_case(0)
    new.requires_grad_()
    policy_loss(new, new.detach(), advantages, mask).losses_BS.sum().backward()
    assert new.grad is not None
    assert torch.allclose(new.grad, -advantages * mask, atol=1e-12)


def test_strict_on_policy_never_clips() -> None:
    new, gen, advantages, mask = random_case(1)
    result = policy_loss(new, gen, advantages, mask)
    assert not result.clipped_low_BS.any()
    assert not result.clipped_high_BS.any()
    assert bool((result.ratio_BS == 1).all())


def test_the_gradient_is_exact() -> None:
    new, gen, advantages, mask = random_case(2)
    old = new.detach() + 0.1
    assert torch.autograd.gradcheck(
        lambda logp: policy_loss(logp, gen, advantages, mask, old_BS=old).losses_BS, new.requires_grad_()
    )


def test_masked_tokens_change_neither_loss_nor_gradient_even_when_nan() -> None:
    new, gen, advantages, mask = random_case(3)
    dirty_new, dirty_gen = new.masked_fill(mask == 0, torch.nan), gen.masked_fill(mask == 0, torch.nan)
    new.requires_grad_()
    dirty_new.requires_grad_()
    clean = policy_loss(new, gen, advantages, mask).losses_BS.sum()
    dirty = policy_loss(dirty_new, dirty_gen, advantages, mask).losses_BS.sum()
    clean.backward()
    dirty.backward()
    assert dirty == clean
    assert torch.equal(dirty_new.grad, new.grad)  # type: ignore[arg-type]


def test_far_ratios_stay_finite() -> None:
    assert math.isfinite(single(50.0, 1.0))
    assert math.isfinite(single(50.0, -1.0))
    assert math.isfinite(single(0.0, 1.0, gap=500.0))


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
def test_splitting_a_batch_does_not_change_the_loss(aggregation: str) -> None:
    new, gen, advantages, mask = random_case(4)
    lengths = mask.sum(1).tolist()
    denominator = {"token_mean": sum(lengths), "sequence_mean": 4.0, "constant": 24.0}[aggregation]
    weight = torch.tensor(
        [[token_weight(aggregation, length=int(length), denominator=denominator)] for length in lengths]  # type: ignore[arg-type]
    )
    parts = [
        (policy_loss(new[rows], gen[rows], advantages[rows], mask[rows]).losses_BS * weight[rows]).sum()
        for rows in (slice(0, 1), slice(1, 4), slice(0, 4))
    ]
    assert parts[0] + parts[1] == pytest.approx(float(parts[2]))


def test_sequence_mean_is_grpo_by_hand() -> None:
    lengths = [1, 3]
    weights = [token_weight("sequence_mean", length=length, denominator=2) for length in lengths]
    assert weights == pytest.approx([1 / 2, 1 / 6])


def test_k3_is_zero_at_equality_and_never_negative() -> None:
    policy, other = torch.randn(2, 100, generator=torch.Generator().manual_seed(0))
    assert float(k3_divergence(policy, policy).abs().max()) == 0
    assert float(k3_divergence(policy, other).min()) >= 0
