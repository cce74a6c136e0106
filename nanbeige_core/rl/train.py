"""One RL stage: on-policy GRPO on the prompts that the on-policy filter kept (report section 3.3).

Every rank holds its shard of the Megatron trainer and a replica of the generation engine. A step: sample groups,
reward them, take one update, copy the weights into the engine, prove that both agree. Progress is committed at step
granularity; a rerun goes on from the last resume point and repeats the steps after it with the same random numbers.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.evals.records import write_records
from nanbeige_core.launch.ranks import gather_objects, rank
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.rl.policy_update import (
    add_old_log_probs,
    build_batches,
    merge_records,
    select_trained,
    update_policy,
)
from nanbeige_core.rl.probe import require_agreement
from nanbeige_core.rl.rollout_table import describe_sampler, policy_name, step_file, to_rows, to_table, write_table
from nanbeige_core.rl.source import step_seed
from nanbeige_core.rl.stage import HELD_OUT_SEED, Stage, open_stage
from nanbeige_core.rl.step_log import summarise_rollout, summarise_update
from nanbeige_core.rl.train_report import build_outcome

Item = TypeVar("Item")


def run(job: Job) -> Outcome:
    """Train the checkpoint on its own rewarded samples and measure what that did to held-out problems."""
    with ExitStack() as opened:
        stage = open_stage(job, opened)
        before = stage.held_out.measure(seed=stage.config.seed + HELD_OUT_SEED)
        resumed = stage.trainer.load_resume(job.scratch / "resume")
        if resumed is not None:
            stage.history = resumed["history"]
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
    config, trainer = stage.config, stage.trainer
    saved = time.monotonic()
    while len(stage.history) < config.steps and not stage.monitor.should_stop(stage.history):
        step = len(stage.history)
        entry = train_step(stage, step)
        entry |= stage.monitor.after_step(step)
        stage.history.append(entry)
        if rank() == 0:
            stage.job.progress((step + 1) / config.steps, describe_step(stage, entry))
            _append_line(stage.job.scratch / "steps.jsonl", entry)
        # one rank's clock decides, or ranks would disagree about a collective
        due = gather_objects(time.monotonic() - saved >= stage.job.runtime.checkpoint_seconds)[0]
        if due and step + 1 < config.steps:
            trainer.save_resume(stage.job.scratch / "resume", {"history": stage.history})
            saved = time.monotonic()
        yield entry


def describe_step(stage: Stage, entry: dict[str, float]) -> str:
    """Return one line for whoever watches, with every earlier domain that has fallen."""
    text = f"step {int(entry['step']) + 1}/{stage.config.steps} reward {entry['reward']:.3f}"
    fallen = "; ".join(map(str, stage.monitor.regressions(stage.history)))
    return f"{text} entropy {entry['entropy']:.2f}" + (f" REGRESSION: {fallen}" if fallen else "")


def train_step(stage: Stage, step: int) -> dict[str, float]:
    """Sample, reward, update, sync and check once; return what the log holds of it."""
    config, trainer = stage.config, stage.trainer
    started, version = time.monotonic(), stage.engine.version
    groups = stage.source.groups(step, trainer.data_rank, trainer.data_size)
    rolled = time.monotonic()
    records: list[Any] = []
    grad_norms: list[float] = []
    parts = [groups[index :: config.updates_per_rollout] for index in range(config.updates_per_rollout)]
    batches = [
        build_batches(
            trainer,
            select_trained(part, config.loss),
            config.loss,
            longest=config.sampling.max_new_tokens,
            row_tokens=stage.row_tokens,
        )
        for part in parts
    ]
    temperature = config.sampling.temperature
    if config.updates_per_rollout > 1:
        for part in batches:
            add_old_log_probs(trainer, part, temperature=temperature)
    for part in batches:
        update = update_policy(trainer, part, config.loss, temperature=temperature)
        records.append(update.record)
        grad_norms += [update.stats.grad_norm] if update.stats else []
    trained = time.monotonic()
    difference = sync(stage)
    rows = to_rows(
        groups,
        stage=stage.job.stage,
        step=step,
        policy=policy_name(stage.job.inputs["checkpoint"].fingerprint, version),
        sampler=describe_sampler(config.sampling, step_seed(config.seed, step)),
    )
    table = to_table(gather_by_data_rank(trainer, rows))
    record = merge_records(gather_by_data_rank(trainer, records))
    # replayed rollouts stay in the artifact they came from
    if rank() == 0 and "rollouts" not in stage.job.inputs:
        write_table(step_file(stage.job.work, step), table)
    return {
        "step": float(step),
        **summarise_rollout(table, longest=config.sampling.max_new_tokens),
        **summarise_update(record),
        "updates": float(len(grad_norms)),
        "grad_norm": max(grad_norms, default=0.0),
        "lr": trainer.rate,
        "probe_difference": difference,
        "rollout_seconds": rolled - started,
        "update_seconds": trained - rolled,
        "sync_seconds": time.monotonic() - trained,
    }


def sync(stage: Stage) -> float:
    """Copy the trainer's weights into the engine and prove that both agree; return their largest difference."""
    version = stage.trainer.step
    stage.engine.update_weights(stage.trainer.hf_state_dict(), version)
    return require_agreement(stage.engine, stage.trainer, stage.prompts.ids[0], tolerance=stage.config.probe_tolerance)


def gather_by_data_rank(trainer: Trainer, items: list[Item]) -> list[Item]:
    """Return every data rank's items in rank order, on every rank, those of a model shard's copies once."""
    by_rank: dict[int, list[Item]] = dict(gather_objects((trainer.data_rank, items)))
    return [item for index in sorted(by_rank) for item in by_rank[index]]


def _append_line(path: Path, entry: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")
