"""The numbers of each RL step that tell a healthy run from a sick one."""

import math

import numpy as np
import pyarrow as pa

from nanbeige_core.rl.policy_update import TokenRecord

LENGTH_BINS = 4
"""Rewards are also averaged within this many equal shares of the longest response."""


def summarise_rollout(table: pa.Table, *, longest: int) -> dict[str, float]:
    """Return reward, entropy, dead groups, truncation and lengths of rollouts (columns of `rollout_table.SCHEMA`).

    `entropy` is the mean of -log p over sampled tokens, an unbiased estimate at the sampling temperature.
    """
    rewards = [math.nan if value is None else value for value in table["reward"].to_pylist()]
    known = [value for value in rewards if not math.isnan(value)]
    lengths: list[int] = [len(tokens) for tokens in table["tokens"].to_pylist()]
    groups: dict[tuple[int, str], list[float]] = {}
    keys = zip(table["step"].to_pylist(), table["prompt_id"].to_pylist(), strict=True)
    for key, reward in zip(keys, rewards, strict=True):
        groups.setdefault(key, []).extend([] if math.isnan(reward) else [reward])
    logprobs = np.array([value for row in table["logprobs"].to_pylist() for value in row])
    result = {
        "reward": float(np.mean(known)) if known else 0.0,
        "entropy": float(-logprobs.mean()) if len(logprobs) else 0.0,
        "dead_group_share": float(np.mean([len(set(values)) < 2 for values in groups.values()])),
        "truncated_share": float(np.mean([reason == "length" for reason in table["finish_reason"].to_pylist()])),
        "unscored_share": 1 - len(known) / max(1, len(rewards)),
        "response_tokens": float(np.mean(lengths)),
        "sampled_tokens": float(sum(lengths)),
    }
    for part in range(LENGTH_BINS):
        low, high = longest * part / LENGTH_BINS, longest * (part + 1) / LENGTH_BINS
        inside = [r for r, n in zip(rewards, lengths, strict=True) if not math.isnan(r) and low < n <= high]
        if inside:
            result[f"reward_length_{part + 1}_of_{LENGTH_BINS}"] = float(np.mean(inside))
    return result


def summarise_update(record: TokenRecord) -> dict[str, float]:
    """Return the gap between trainer and engine, ratios and clip shares over all trained tokens of one update.

    `gen_kl` is the k3 estimate of KL(engine || trainer at the rollout's weights).
    """
    if not record.gap:
        return {}
    gap, ratio = np.asarray(record.gap), np.asarray(record.ratio)
    return {
        "gap_mean": float(np.abs(gap).mean()),
        "gap_p99": float(np.quantile(np.abs(gap), 0.99)),
        "gen_kl": float((np.exp(gap) - 1 - gap).mean()),
        "ratio_p1": float(np.quantile(ratio, 0.01)),
        "ratio_p99": float(np.quantile(ratio, 0.99)),
        "clip_low_share": record.clipped_low / len(gap),
        "clip_high_share": record.clipped_high / len(gap),
        "importance_capped_share": record.capped / len(gap),
        "trained_tokens": float(len(gap)),
    }
