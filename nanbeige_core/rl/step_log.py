"""The numbers of each RL step that tell a healthy run from a sick one, and the rollouts table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.rl.policy_update import TokenRecord
from nanbeige_core.rl.rewards import Rollout

LENGTH_BINS = 4
"""Rewards are also averaged within this many equal shares of the longest response."""


class Sample(NamedTuple):
    """One rollout as it is gathered, logged and stored."""

    prompt_id: str
    number: int
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    reward: float
    scored: bool
    reason: str
    prompt_tokens: int


def to_samples(groups: Sequence[Sequence[Rollout]]) -> list[Sample]:
    """Return the groups' rollouts as rows, without text."""
    return [
        Sample(
            prompt_id=rollout.row.id,
            number=number,
            token_ids=rollout.completion.token_ids,
            logprobs=rollout.completion.logprobs,
            finish_reason=rollout.completion.finish_reason,
            reward=rollout.reward,
            scored=rollout.scored,
            reason=rollout.reason,
            prompt_tokens=len(rollout.completion.prompt_ids),
        )
        for group in groups
        for number, rollout in enumerate(group)
    ]


def summarise_rollout(samples: Sequence[Sample], *, longest: int) -> dict[str, float]:
    """Return reward, entropy, dead groups, truncation and lengths of one step's rollouts of all ranks.

    `entropy` is the mean of -log p over sampled tokens, an unbiased estimate at the sampling temperature.
    """
    rewards = np.array([sample.reward for sample in samples if sample.scored])
    lengths = np.array([len(sample.token_ids) for sample in samples])
    logprobs = np.concatenate([np.asarray(sample.logprobs) for sample in samples])
    groups: dict[str, list[float]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).extend([sample.reward] if sample.scored else [])
    result = {
        "reward": float(rewards.mean()) if len(rewards) else 0.0,
        "entropy": float(-logprobs.mean()),
        "dead_group_share": float(np.mean([len(set(values)) < 2 for values in groups.values()])),
        "truncated_share": float(np.mean([sample.finish_reason == "length" for sample in samples])),
        "unscored_share": float(np.mean([not sample.scored for sample in samples])),
        "response_tokens": float(lengths.mean()),
    }
    for part in range(LENGTH_BINS):
        low, high = longest * part / LENGTH_BINS, longest * (part + 1) / LENGTH_BINS
        inside = [s.reward for s in samples if s.scored and low < len(s.token_ids) <= high]
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


def write_rollouts(directory: Path, step: int, samples: Sequence[Sample], *, version: int) -> None:
    """Write one step's rollouts as `step-<n>.parquet`, atomically; a repeated step replaces its file."""
    directory.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}
    table = pa.table({"step": [step] * len(samples), "policy_version": [version] * len(samples), **columns})
    partial = directory / f"step-{step:05d}.partial"
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, directory / f"step-{step:05d}.parquet")
