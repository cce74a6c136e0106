"""Rollouts as they are stored: one Parquet row per response, enough to train on it, score it again, or trace it.

A file holds whole groups. `policy` names the weights that sampled: the fingerprint of the checkpoint the stage
started from, and the number of updates since (`<fingerprint>@<updates>`).
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.rewards import Rollout

FILE = "rollouts.parquet"
DIRECTORY = "rollouts"
SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("step", pa.int64()),
        ("prompt_id", pa.string()),
        ("sample", pa.int64()),
        ("prompt_tokens", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
        ("text", pa.string()),
        ("reward", pa.float64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("finish_reason", pa.string()),
        ("policy", pa.string()),
        ("sampler", pa.string()),
    ]
)


class StoredRollout(NamedTuple):
    """One row. `reward` is None and `verdict` "unscored" where nothing could be judged; "judged" is a win rate."""

    stage: str
    step: int
    prompt_id: str
    sample: int
    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    reward: float | None
    verdict: str
    reason: str
    finish_reason: str
    policy: str
    sampler: str


def policy_name(checkpoint_fingerprint: str, updates: int) -> str:
    """Name the weights that sampled."""
    return f"{checkpoint_fingerprint}@{updates}"


def updates_of(policy: str) -> int:
    """Return the number of updates in a policy's name."""
    return int(policy.rsplit("@", 1)[1])


def describe_sampler(sampling: SamplingConfig, seed: int) -> str:
    """Return everything that decides what is drawn from given weights, as canonical JSON."""
    return sampling.model_copy().model_dump_json()[:-1] + f',"seed":{seed}}}'


def verdict_of(rollout: Rollout) -> str:
    """Return correct, wrong, unscored, or judged for a win probability."""
    if math.isnan(rollout.reward):
        return "unscored"
    if rollout.reason == "judged":
        return "judged"
    return "correct" if rollout.reward > 0 else "wrong"


def to_rows(
    groups: Sequence[Sequence[Rollout]], *, stage: str, step: int, policy: str, sampler: str
) -> list[StoredRollout]:
    """Return the rows of whole groups."""
    return [
        StoredRollout(
            stage=stage,
            step=step,
            prompt_id=rollout.row.id,
            sample=number,
            prompt_tokens=rollout.completion.prompt_ids,
            tokens=rollout.completion.token_ids,
            logprobs=rollout.completion.logprobs,
            text=rollout.text,
            reward=None if math.isnan(rollout.reward) else rollout.reward,
            verdict=verdict_of(rollout),
            reason=rollout.reason,
            finish_reason=rollout.completion.finish_reason,
            policy=policy,
            sampler=sampler,
        )
        for group in groups
        for number, rollout in enumerate(group)
    ]


def to_table(rows: Sequence[StoredRollout]) -> pa.Table:
    """Return the rows as a table of `SCHEMA`."""
    return pa.Table.from_pylist([row._asdict() for row in rows], schema=SCHEMA)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def step_file(directory: Path, step: int) -> Path:
    """Return the file of one step of an RL stage; a repeated step replaces it."""
    return directory / DIRECTORY / f"step-{step:05d}.parquet"


def rollout_files(artifact: Path) -> list[Path]:
    """Return an artifact's rollout files in step order: `rollouts.parquet` or `rollouts/step-*.parquet`."""
    single = artifact / FILE
    return [single] if single.exists() else sorted((artifact / DIRECTORY).glob("step-*.parquet"))


def read_rollouts(artifact: Path) -> list[StoredRollout]:
    """Read all rollouts of an artifact in file order.

    Raises ValueError when it has none, or has them in a layout that lacks what training and scoring need.
    """
    files = rollout_files(artifact)
    if not files:
        raise ValueError(
            f"{artifact} holds neither {FILE} nor {DIRECTORY}/step-*.parquet: it was not made by a stage that samples. "
            "Name an artifact of pass_rates, rollouts or an RL stage."
        )
    rows: list[StoredRollout] = []
    for path in files:
        rows += _read(path)
    return rows


def _read(path: Path) -> list[StoredRollout]:
    table = pq.read_table(path)
    missing = [name for name in StoredRollout._fields if name not in table.column_names]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {', '.join(missing)}: it was written before rollouts could be replayed. "
            "Make its stage again with --force, or use a newer artifact."
        )
    records: list[dict[str, Any]] = table.select(list(StoredRollout._fields)).to_pylist()
    for record in records:
        for name in ("prompt_tokens", "tokens", "logprobs"):
            record[name] = tuple(record[name] or ())
    return [StoredRollout(**record) for record in records]
