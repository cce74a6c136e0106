"""One RL stage: on-policy GRPO on the prompts that the on-policy filter kept (report section 3.3).

Every rank holds its shard of the Megatron trainer and a replica of the generation engine. A step: sample groups,
reward them, take one update, copy the weights into the engine, prove that both agree. With `rollout_lag` the next
step is sampled during the update. Progress is committed at step
granularity; a rerun goes on from the last resume point and repeats the steps after it with the same random numbers.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.evals.records import write_records
from nanbeige_core.launch.ranks import gather_objects, rank
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.rl.policy_update import (
    TokenRecord,
    add_old_log_probs,
    build_batches,
    merge_records,
    select_trained,
    update_policy,
)
from nanbeige_core.rl.probe import require_agreement
from nanbeige_core.rl.rewards import Rollout
from nanbeige_core.rl.rollout_table import describe_sampler, policy_name, step_file, to_rows, to_table, write_table
from nanbeige_core.rl.source import step_seed
from nanbeige_core.rl.stage import HELD_OUT_SEED, Stage, open_stage
from nanbeige_core.rl.step_log import summarise_rollout, summarise_update
from nanbeige_core.rl.train_report import build_outcome

Item = TypeVar("Item")
STEP_LOG = "steps.jsonl"
"""In the scratch directory, for whoever watches a running stage."""
AHEAD = "ahead"
"""In the scratch directory: groups sampled for the step after a resume point."""


class Updates(NamedTuple):
    """What one rollout's updates left for the log: token records and gradient norms before clipping."""

    records: list[TokenRecord]
    grad_norms: list[float]


def run(job: Job) -> Outcome:
    """Train the checkpoint on its own rewarded samples and measure what that did to held-out problems."""
    with ExitStack() as opened:
        stage = open_stage(job, opened)
        before = stage.held_out.measure(seed=stage.config.seed + HELD_OUT_SEED)
        resumed = stage.trainer.load_resume(job.scratch / "resume")
        if resumed is not None:
            stage.history = resumed["history"]
            part, parts = stage.trainer.data_rank, stage.trainer.data_size
            stage.ahead.load(job.scratch / AHEAD, len(stage.history), stage.prompts.rows, part, parts)
        sync(stage)
        for _ in train_steps(stage):
            pass
        after = stage.held_out.measure(seed=stage.config.seed + HELD_OUT_SEED)
    if rank() == 0:
        write_records(job.work, {stage.held_out.measure_name: after.by_problem})
    card = read_model_card(job.inputs["checkpoint"].path)
    stage.trainer.save(
        job.work,
        tokenizer_fingerprint=card.tokenizer_fingerprint,
        stage=job.stage,
        tokens=int(sum(entry.get("trained_tokens", 0) for entry in stage.history)),
        history=stage.history,
    )
    return build_outcome(stage, before, after)


def train_steps(stage: Stage) -> Iterator[dict[str, float]]:
    """Run the remaining steps, or fewer where the held-out score has stopped rising; yields each step's log entry."""
    config = stage.config
    points = ResumePoints(stage.job, stage.trainer)
    with points.training():
        while len(stage.history) < config.steps and not stage.monitor.should_stop(stage.history):
            step = len(stage.history)
            entry = train_step(stage, step)
            entry |= stage.monitor.after_step(step)
            stage.history.append(entry)
            if rank() == 0:
                stage.job.progress((step + 1) / config.steps, describe_step(stage, entry))
                _write_lines(stage.job.scratch / STEP_LOG, stage.history)
            points.after_step(lambda: save_point(stage, len(stage.history)), more=step + 1 < config.steps)
            yield entry


def save_point(stage: Stage, step: int) -> None:
    """Write a resume point from which `step` comes next, with the groups already sampled for it."""
    scratch, checkpoint = stage.job.scratch, stage.job.inputs["checkpoint"].fingerprint
    stage.ahead.save(scratch / AHEAD, step, trainer=stage.trainer, stage=stage.job.stage, checkpoint=checkpoint)
    stage.trainer.save_resume(scratch / "resume", {"history": stage.history})


def describe_step(stage: Stage, entry: dict[str, float]) -> str:
    """Return one line for whoever watches, with every earlier domain that has fallen."""
    text = f"step {int(entry['step']) + 1}/{stage.config.steps} reward {entry['reward']:.3f}"
    fallen = "; ".join(map(str, stage.monitor.regressions(stage.history)))
    return f"{text} entropy {entry['entropy']:.2f}" + (f" REGRESSION: {fallen}" if fallen else "")


def train_step(stage: Stage, step: int) -> dict[str, float]:
    """Sample, reward, update, sync and check once; return what the log holds of it."""
    config, trainer = stage.config, stage.trainer
    started, part, parts = time.monotonic(), trainer.data_rank, trainer.data_size
    groups, version = stage.ahead.take(step, part, parts)
    rolled, age = time.monotonic(), trainer.step - version
    if config.rollout_lag and step + 1 < config.steps:
        stage.ahead.begin(step + 1, part, parts)
    updates = train_on(stage, groups)
    trained = time.monotonic()
    stage.ahead.wait()
    synced = time.monotonic()
    difference = sync(stage)
    rows = to_rows(
        groups,
        stage=stage.job.stage,
        step=step,
        policy=policy_name(stage.job.inputs["checkpoint"].fingerprint, version),
        sampler=describe_sampler(config.sampling, step_seed(config.seed, step)),
    )
    table = to_table(gather_by_data_rank(trainer, rows))
    record = merge_records(gather_by_data_rank(trainer, updates.records))
    # replayed rollouts stay in the artifact they came from
    if rank() == 0 and "rollouts" not in stage.job.inputs:
        write_table(step_file(stage.job.work, step), table)
    return {
        "step": float(step),
        **summarise_rollout(table, longest=config.sampling.max_new_tokens),
        **summarise_update(record),
        "updates": float(len(updates.grad_norms)),
        "grad_norm": max(updates.grad_norms, default=0.0),
        "lr": trainer.rate,
        "probe_difference": difference,
        "rollout_age_updates": float(age),
        # with a lag, what sampling takes beyond the update that runs beside it
        "rollout_seconds": rolled - started + synced - trained,
        "update_seconds": trained - rolled,
        "sync_seconds": time.monotonic() - synced,
    }


def train_on(stage: Stage, groups: Sequence[Sequence[Rollout]]) -> Updates:
    """Take the configured number of updates from one rollout."""
    config, trainer = stage.config, stage.trainer
    updates = Updates([], [])
    shares = [groups[index :: config.updates_per_rollout] for index in range(config.updates_per_rollout)]
    batches = [
        build_batches(
            trainer,
            select_trained(share, config.loss),
            config.loss,
            longest=config.sampling.max_new_tokens,
            row_tokens=stage.row_tokens,
        )
        for share in shares
    ]
    temperature = config.sampling.temperature
    if config.updates_per_rollout > 1:
        for batch in batches:
            add_old_log_probs(trainer, batch, temperature=temperature)
    for batch in batches:
        update = update_policy(trainer, batch, config.loss, temperature=temperature)
        updates.records.append(update.record)
        updates.grad_norms.extend([update.stats.grad_norm] if update.stats else [])
    return updates


def sync(stage: Stage) -> float:
    """Copy the trainer's weights into the engine and prove that both agree; return their largest difference."""
    version = stage.trainer.step
    stage.engine.update_weights(stage.trainer.hf_state_dict(), version)
    return require_agreement(stage.engine, stage.trainer, stage.prompts.ids[0], tolerance=stage.config.probe_tolerance)


def gather_by_data_rank(trainer: Trainer, items: list[Item]) -> list[Item]:
    """Return every data rank's items in rank order, on every rank, those of a model shard's copies once."""
    by_rank: dict[int, list[Item]] = dict(gather_objects((trainer.data_rank, items)))
    return [item for index in sorted(by_rank) for item in by_rank[index]]


def _write_lines(path: Path, history: list[dict[str, float]]) -> None:
    """Replace the log as a whole: a killed stage repeats steps, and each stands in it once."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(entry) + "\n" for entry in history))
    os.replace(partial, path)
