"""Turn the rewards of groups of responses to one prompt into advantages.

Shapes: P prompts, G responses of one prompt. Everything is fp32 or wider.
"""

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["group_mean", "leave_one_out"]
Scale = Literal["standard_deviation", "none"]


def group_advantages(
    rewards_PG: Tensor,
    scored_PG: Tensor | None = None,
    *,
    baseline: Baseline = "group_mean",
    scale: Scale = "standard_deviation",
    epsilon: float = 1e-6,
) -> Tensor:
    """Return A = (R - mean) / (std + epsilon) within each group [P, G]; std has one degree of freedom removed.

    Responses outside `scored_PG` take no part in mean and std and get 0. `leave_one_out` subtracts the mean of the
    others, which is the group mean's difference times k/(k-1) for k scored responses; its scale is the whole group's
    standard deviation, since the others alone can have none. A group with one scored response or equal rewards gets 0.
    Truncated responses belong in the group here and are masked afterwards (open-instruct #1794).
    """
    rewards_PG = rewards_PG.to(torch.promote_types(rewards_PG.dtype, torch.float32))
    weight_PG = torch.ones_like(rewards_PG) if scored_PG is None else scored_PG.to(rewards_PG.dtype)
    count_P1 = weight_PG.sum(dim=1, keepdim=True)
    # an unscored reward may be nan, and nan * 0 is nan
    rewards_PG = torch.where(weight_PG > 0, rewards_PG, 0.0)
    centred_PG = (rewards_PG - rewards_PG.sum(dim=1, keepdim=True) / count_P1.clamp_min(1)) * weight_PG
    deviation_P1 = ((centred_PG**2).sum(dim=1, keepdim=True) / (count_P1 - 1).clamp_min(1)).sqrt()
    if baseline == "leave_one_out":
        centred_PG = centred_PG * count_P1 / (count_P1 - 1).clamp_min(1)
    advantages_PG = centred_PG / (deviation_P1 + epsilon) if scale == "standard_deviation" else centred_PG
    return torch.where(live_groups(rewards_PG, scored_PG)[:, None], advantages_PG, 0.0)


def live_groups(rewards_PG: Tensor, scored_PG: Tensor | None = None) -> Tensor:
    """Return which groups [P] hold two different rewards: the others teach nothing and are dropped (DAPO)."""
    scored = torch.ones_like(rewards_PG, dtype=torch.bool) if scored_PG is None else scored_PG.bool()
    highest_P = rewards_PG.masked_fill(~scored, -torch.inf).amax(dim=1)
    lowest_P = rewards_PG.masked_fill(~scored, torch.inf).amin(dim=1)
    return highest_P > lowest_P
