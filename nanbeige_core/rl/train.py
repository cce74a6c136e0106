"""One RL stage: on-policy GRPO on the prompts that the on-policy filter kept (report section 3.3).

Every rank holds its shard of the Megatron trainer and a replica of the generation engine. A step: sample groups,
reward them, take one update, copy the weights into the engine, prove that both agree. Progress is committed at step
granularity; a rerun goes on from the last resume point and repeats the steps after it with the same random numbers.
"""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.evals.exact_match import EncodedPrompts, encode_fitting
from nanbeige_core.evals.records import write_records
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import gather_objects, rank
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import RlConfig
from nanbeige_core.rl.held_out import HeldOut, PassRate, WinRate
from nanbeige_core.rl.judge import PairwiseJudge
from nanbeige_core.rl.policy_update import (
    add_old_log_probs,
    build_batches,
    merge_records,
    select_trained,
    update_policy,
)
from nanbeige_core.rl.probe import require_agreement
from nanbeige_core.rl.prompts import STAGE_DOMAINS, load_prompts
from nanbeige_core.rl.rewards import JudgedRewards, Rewarder, Rollout, VerifiedRewards
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.rl.step_log import summarise_rollout, summarise_update, to_samples, write_rollouts
from nanbeige_core.rl.train_report import build_outcome

ROLLOUTS = "rollouts"
Item = TypeVar("Item")


@dataclass
class Stage:
    """What one RL stage works with."""

    job: Job
    config: RlConfig
    trainer: Trainer
    engine: Engine
    rewarder: Rewarder
    held_out: HeldOut
    prompts: EncodedPrompts
    row_tokens: int
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])


def run(job: Job) -> Outcome:
    """Train the checkpoint on its own rewarded samples and measure what that did to held-out problems."""
    with ExitStack() as opened:
        stage = open_stage(job, opened)
        before = stage.held_out.measure(seed=stage.config.seed + 1_000_000)
        resumed = stage.trainer.load_resume(job.scratch / "resume")
        if resumed is not None:
            stage.history = resumed["history"]
        sync(stage)
        for _ in train_steps(stage):
            pass
        after = stage.held_out.measure(seed=stage.config.seed + 1_000_000)
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
    return build_outcome(stage.config, stage.held_out.metric, before, after, stage.history, stage.prompts)


def open_stage(job: Job, opened: ExitStack) -> Stage:
    """Open trainer, engine, rewards and held-out measurement; pools stay open as long as `opened`.

    Raises ValueError when there is nothing to train on or to measure with.
    """
    config: RlConfig = job.config
    checkpoint = job.inputs["checkpoint"].path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    card = read_model_card(checkpoint)
    trainer = Trainer.open(
        model=card.model,
        vocab_size=card.vocab_size,
        optimizer=config.optimizer,
        schedule=LrSchedule(
            peak=config.learning_rate,
            total=config.steps * config.updates_per_rollout,
            warmup=min(config.warmup_steps, config.steps * config.updates_per_rollout),
        ),
        runtime=job.runtime,
        seed=config.seed,
        weights=checkpoint / "weights",
    )
    engine = open_engine(checkpoint, job.inputs["tokenizer"].path, job.runtime)
    domains = STAGE_DOMAINS[config.domain]
    rows = load_prompts(job.inputs["prompts"].path, splits={"rl"}, domains=domains)
    prompts = encode_fitting(tokenizer, rows, window=engine.window, max_new_tokens=config.sampling.max_new_tokens)
    if len(prompts.rows) < config.prompts_per_step:
        raise ValueError(
            f"{len(prompts.rows)} prompts of domain {config.domain} fit the window, expected at least "
            f"rl.prompts_per_step = {config.prompts_per_step}: a step would repeat a prompt. Lower prompts_per_step, "
            "widen the band of on_policy_filter, or build more problems."
        )
    rewarder, held_out = _open_rewards(job, opened, engine, tokenizer)
    row_tokens = min(card.model.max_positions, engine.window)
    return Stage(job, config, trainer, engine, rewarder, held_out, prompts, row_tokens)


def _open_rewards(
    job: Job, opened: ExitStack, engine: Engine, tokenizer: PreTrainedTokenizerFast
) -> tuple[Rewarder, HeldOut]:
    config: RlConfig = job.config
    rows = load_prompts(
        job.inputs["prompts"].path,
        splits={"heldout"},
        domains=STAGE_DOMAINS[config.domain],
        limit=config.heldout.limit,
    )
    if not rows:
        raise ValueError(
            f"the prompts of {job.stage} hold no held-out rows of domain {config.domain}: without them the stage "
            "cannot say what it changed. Build the problems with a held-out split."
        )
    sampling = SamplingConfig(temperature=config.heldout.temperature, max_new_tokens=config.sampling.max_new_tokens)
    samples = config.heldout.samples
    if config.domain == "preference":
        directory = job.inputs["reward_model"].path
        judge = PairwiseJudge.open(directory, job.inputs["tokenizer"].path, job.runtime)
        rewarder = JudgedRewards(engine, judge, config.reward, seed=config.seed)
        return rewarder, WinRate(engine, tokenizer, rows, sampling, judge, samples=samples, seed=config.seed)
    scorer = opened.enter_context(Scorer(cache=job.cache, workers=job.runtime.threads))
    held_out = PassRate(engine, tokenizer, rows, sampling, scorer, samples=samples)
    return VerifiedRewards(engine, scorer), held_out


def step_prompts(count: int, per_step: int, step: int, *, seed: int) -> list[int]:
    """Return the indices of the prompts of one step: epochs of shuffled order, no index twice in a step.

    A step that would cross an epoch's end starts the next epoch instead.
    """
    steps_per_epoch = count // per_step
    epoch, position = divmod(step, steps_per_epoch)
    order = list(range(count))
    Random(f"{seed}:{epoch}").shuffle(order)
    return order[position * per_step : (position + 1) * per_step]


def train_steps(stage: Stage) -> Iterator[dict[str, float]]:
    """Run the remaining steps; yields each step's log entry."""
    config, trainer = stage.config, stage.trainer
    saved = time.monotonic()
    while len(stage.history) < config.steps:
        step = len(stage.history)
        entry = train_step(stage, step)
        stage.history.append(entry)
        if rank() == 0:
            text = f"step {step + 1}/{config.steps} reward {entry['reward']:.3f} entropy {entry['entropy']:.2f}"
            stage.job.progress((step + 1) / config.steps, text)
            _append_line(stage.job.scratch / "steps.jsonl", entry)
        # one rank's clock decides, or ranks would disagree about a collective
        due = gather_objects(time.monotonic() - saved >= stage.job.runtime.checkpoint_seconds)[0]
        if due and step + 1 < config.steps:
            trainer.save_resume(stage.job.scratch / "resume", {"history": stage.history})
            saved = time.monotonic()
        yield entry


def train_step(stage: Stage, step: int) -> dict[str, float]:
    """Sample, reward, update, sync and check once; return what the log holds of it."""
    config, trainer = stage.config, stage.trainer
    started, version = time.monotonic(), stage.engine.version
    groups = roll_out(stage, step)
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
    samples = gather_by_data_rank(trainer, to_samples(groups))
    record = merge_records(gather_by_data_rank(trainer, records))
    if rank() == 0:
        write_rollouts(stage.job.work / ROLLOUTS, step, samples, version=version)
    return {
        "step": float(step),
        **summarise_rollout(samples, longest=config.sampling.max_new_tokens),
        **summarise_update(record),
        "updates": float(len(grad_norms)),
        "grad_norm": max(grad_norms, default=0.0),
        "lr": trainer.rate,
        "probe_difference": difference,
        "sampled_tokens": float(sum(len(sample.token_ids) for sample in samples)),
        "rollout_seconds": rolled - started,
        "update_seconds": trained - rolled,
        "sync_seconds": time.monotonic() - trained,
    }


def roll_out(stage: Stage, step: int) -> list[list[Rollout]]:
    """Sample and reward this data rank's groups of one step; ranks of one model shard draw the same."""
    config, trainer = stage.config, stage.trainer
    chosen = step_prompts(len(stage.prompts.rows), config.prompts_per_step, step, seed=config.seed)
    mine = chosen[trainer.data_rank :: trainer.data_size]
    seed = config.seed * 100_003 + step * 1_009
    completions = stage.engine.generate(
        [stage.prompts.ids[index] for index in mine], config.sampling, n=config.group_size, seed=seed
    )
    return stage.rewarder.reward([stage.prompts.rows[index] for index in mine], completions, step=step)


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
