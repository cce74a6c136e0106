"""Open what one RL stage works with: trainer, engine, source of groups, held-out problems and the watch over them."""

from contextlib import ExitStack
from dataclasses import dataclass, field

from nanbeige_core.contract import Job, Section
from nanbeige_core.evals.exact_match import EncodedPrompts
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import rank
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import RlConfig
from nanbeige_core.rl.ahead import Ahead
from nanbeige_core.rl.held_out import HeldOut, PassRate, WinRate
from nanbeige_core.rl.judge import PairwiseJudge
from nanbeige_core.rl.monitor import Monitor, earlier_domains
from nanbeige_core.rl.policy import Policy, open_scorer
from nanbeige_core.rl.prompts import STAGE_DOMAINS, PromptRow, load_prompts
from nanbeige_core.rl.rescore import Rescored, rescore
from nanbeige_core.rl.rollout_table import read_rollouts
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.rl.source import Source, StoredSource, open_sampling

HELD_OUT_SEED = 1_000_000
"""Added to the stage's seed: held-out samples never share random numbers with rollouts."""
SHOWN = 6
"""Changed verdicts, and names of policies, in the report."""


@dataclass
class Stage:
    """What one RL stage works with."""

    job: Job
    config: RlConfig
    trainer: Trainer
    engine: Engine
    ahead: Ahead
    held_out: HeldOut
    monitor: Monitor
    prompts: EncodedPrompts
    row_tokens: int
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    sections: list[Section] = field(default_factory=list[Section])


def open_stage(job: Job, opened: ExitStack) -> Stage:
    """Open everything; worker pools stay open as long as `opened`.

    Raises ValueError when there is nothing to train on or to measure with.
    """
    config: RlConfig = job.config
    checkpoint = job.inputs["checkpoint"].path
    card = read_model_card(checkpoint)
    updates = config.steps * config.updates_per_rollout
    trainer = Trainer.open(
        model=card.model,
        vocab_size=card.vocab_size,
        optimizer=config.optimizer,
        schedule=LrSchedule(peak=config.learning_rate, total=updates, warmup=min(config.warmup_steps, updates)),
        runtime=job.runtime,
        seed=config.seed,
        weights=checkpoint / "weights",
    )
    trainer.record_steps(job)
    policy, judgement, prompts, sampled = open_sampling(job, opened, config)
    source: Source = sampled
    sections: list[Section] = []
    if "rollouts" in job.inputs:
        source, rescored = open_stored_source(job, prompts.rows, judgement)
        if rank() == 0:
            job.progress(0.0, describe_rescored(rescored))
        sections += rescored_sections(rescored)
    monitor = Monitor(
        own := _held_out(job, policy, judgement),
        _earlier(job, policy, judgement, opened) if config.monitor.every else {},
        config.monitor,
        seed=config.seed + HELD_OUT_SEED,
    )
    row_tokens = min(card.model.max_positions, policy.engine.window)
    ahead = opened.enter_context(Ahead(source, policy.engine))
    return Stage(job, config, trainer, policy.engine, ahead, own, monitor, prompts, row_tokens, sections=sections)


def open_stored_source(
    job: Job, rows: list[PromptRow], judgement: Scorer | PairwiseJudge
) -> tuple[StoredSource, Rescored]:
    """Open stored rollouts under today's verdicts (train only).

    Raises ValueError when they hold fewer steps than the stage trains.
    """
    config: RlConfig = job.config
    known = {row.id: row for row in rows}
    stored = read_rollouts(job.inputs["rollouts"].path)
    rescored = rescore(stored, known, judgement) if isinstance(judgement, Scorer) else Rescored(stored, [], len(stored))
    source = StoredSource(rescored.rollouts, known)
    if source.steps < config.steps:
        raise ValueError(
            f"{job.inputs['rollouts'].path} holds {source.steps} steps of prompts that {job.stage} may train on, "
            f"expected {config.steps} (rl.steps). Roll out more steps, lower rl.steps, or wire the prompts the "
            "rollouts were made from."
        )
    return source, rescored


def describe_rescored(rescored: Rescored) -> str:
    """Return in a line whose rollouts these are and what today's verifier says of them."""
    changes = ", ".join(f"{row['rollouts']} from {row['was']} to {row['is']}" for row in rescored.transitions())
    policies = sorted({rollout.policy for rollout in rescored.rollouts})
    shown = ", ".join(policies[:SHOWN]) + (f" and {len(policies) - SHOWN} more" if len(policies) > SHOWN else "")
    return (
        f"{len(rescored.rollouts)} stored rollouts of {shown}: {len(rescored.rollouts) - rescored.kept} scored again "
        f"before training, {len(rescored.flips)} verdicts changed{': ' if changes else ''}{changes}."
    )


def rescored_sections(rescored: Rescored) -> list[Section]:
    """Return the report's part about verdicts that changed since the rollouts were stored, with examples."""
    title = "Stored rollouts under today's verifier"
    sections = [Section(title=title, text=describe_rescored(rescored), table=rescored.transitions())]
    if rescored.flips:
        examples = [
            {
                "prompt": flip.old.prompt_id,
                "end of the response": flip.old.text[-80:],
                "was": f"{flip.old.verdict} ({flip.old.reason})",
                "is": f"{flip.new.verdict} ({flip.new.reason})",
            }
            for flip in rescored.flips[:SHOWN]
        ]
        sections.append(Section(title="Changed verdicts", table=examples))
    return sections


def _held_out(job: Job, policy: Policy, judgement: Scorer | PairwiseJudge) -> HeldOut:
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
    samples, sampling = config.heldout.samples, _held_out_sampling(config)
    if isinstance(judgement, Scorer):
        return PassRate(policy.engine, policy.tokenizer, rows, sampling, judgement, samples=samples)
    return WinRate(policy.engine, policy.tokenizer, rows, sampling, judgement, samples=samples, seed=config.seed)


def _held_out_sampling(config: RlConfig) -> SamplingConfig:
    return SamplingConfig(temperature=config.heldout.temperature, max_new_tokens=config.sampling.max_new_tokens)


def _earlier(job: Job, policy: Policy, judgement: Scorer | PairwiseJudge, opened: ExitStack) -> dict[str, HeldOut]:
    """Return a measurement for each earlier domain that the problems hold held-out rows of."""
    config: RlConfig = job.config
    domains = earlier_domains(config.domain)
    if not domains:
        return {}
    scorer = judgement if isinstance(judgement, Scorer) else open_scorer(job, opened)
    measured: dict[str, HeldOut] = {}
    for domain in domains:
        rows = load_prompts(
            job.inputs["problems"].path,
            splits={"heldout"},
            domains=STAGE_DOMAINS[domain],
            limit=config.monitor.limit,
        )
        if rows:
            sampling, samples = _held_out_sampling(config), config.heldout.samples
            measured[domain] = PassRate(policy.engine, policy.tokenizer, rows, sampling, scorer, samples=samples)
    return measured
