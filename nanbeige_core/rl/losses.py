"""The policy loss of GRPO with DAPO's choices, as a pure function of log-probabilities.

Three log-probabilities of the same tokens are never confused: `gen` (the engine sampled from it), `old` (the trainer,
at the weights of the rollout) and `new` (the trainer, differentiable). Convention: index t is the log-probability of
the label at t. Shapes: B sequences, S positions. All in fp32.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Aggregation = Literal["token_mean", "sequence_mean", "constant"]
LARGEST_LOG_RATIO = 20.0
"""exp stays finite, and so do its gradients."""


class Clip(NamedTuple):
    """Bounds of the token ratio: [1 - low, 1 + high]; `dual` > 1 bounds the loss where the advantage is negative."""

    low: float = 0.2
    high: float = 0.28
    dual: float | None = None


class PolicyLoss(NamedTuple):
    """Per-token losses, already masked and weighted, and what a log wants to know of each token (detached)."""

    losses_BS: Tensor
    ratio_BS: Tensor
    clipped_low_BS: Tensor
    clipped_high_BS: Tensor
    importance_BS: Tensor


def policy_loss(
    new_BS: Tensor,
    gen_BS: Tensor,
    advantages_BS: Tensor,
    mask_BS: Tensor,
    *,
    old_BS: Tensor | None = None,
    clip: Clip = Clip(),  # noqa: B008 - an immutable tuple
    importance_cap: float | None = 2.0,
) -> PolicyLoss:
    """Return the masked per-token policy losses [B, S]; their sum over the global denominator is the loss.

    r = exp(clamp(new - old, -20, 20)); l = max(-A r, -A clip(r, 1 - low, 1 + high)), at most -c A where A < 0
    with dual clip; w = min(exp(old - gen), cap), detached (truncated importance sampling). Without `old_BS`
    the update is strictly on-policy: old is new detached, r is 1, no clip can act and the gradient is that of
    -A new (2402.03300; 2503.14476 eq. 8 for the two bounds). `advantages_BS` may be [B, 1]. Values outside
    the mask may be anything, nan included.
    """
    mask = mask_BS > 0
    new_BS, gen_BS = torch.where(mask, new_BS, 0.0), torch.where(mask, gen_BS, 0.0)
    old_BS = new_BS.detach() if old_BS is None else torch.where(mask, old_BS, 0.0).detach()
    advantages_BS = advantages_BS.to(new_BS.dtype).expand_as(new_BS)
    ratio_BS = (new_BS - old_BS).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    plain_BS = -advantages_BS * ratio_BS
    bounded_BS = -advantages_BS * ratio_BS.clamp(1 - clip.low, 1 + clip.high)
    loss_BS = torch.maximum(plain_BS, bounded_BS)
    if clip.dual is not None:
        loss_BS = torch.where(advantages_BS < 0, torch.minimum(loss_BS, -clip.dual * advantages_BS), loss_BS)
    importance_BS = (old_BS - gen_BS).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()
    correction_BS = 1.0 if importance_cap is None else importance_BS.clamp_max(importance_cap)
    acted_BS = (bounded_BS > plain_BS) & mask
    return PolicyLoss(
        losses_BS=torch.where(mask, loss_BS * correction_BS, 0.0),
        ratio_BS=ratio_BS.detach(),
        clipped_low_BS=acted_BS & (ratio_BS < 1),
        clipped_high_BS=acted_BS & (ratio_BS > 1),
        importance_BS=importance_BS,
    )


def token_weight(aggregation: Aggregation, *, length: int, denominator: float) -> float:
    """Return the weight of each of the `length` trainable tokens of one response in the global loss.

    `denominator` is global, over ranks and micro-batches: trainable tokens for `token_mean` (DAPO), responses with
    a trainable token for `sequence_mean` (GRPO), responses times the longest allowed for `constant` (Dr. GRPO).
    """
    return 1.0 / (denominator * length) if aggregation == "sequence_mean" else 1.0 / denominator


def k3_divergence(policy_BS: Tensor, other_BS: Tensor) -> Tensor:
    """Return exp(d) - 1 - d with d = other - policy per token: never negative, its mean is KL(policy || other)."""
    difference_BS = (other_BS - policy_BS).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)
    return difference_BS.exp() - 1 - difference_BS
