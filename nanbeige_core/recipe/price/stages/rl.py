"""Costs of pass rates, the on-policy filter, the three RL stages and the reward model."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.problems import ProblemsConfig
from nanbeige_core.recipe.configs.rl import (
    OnPolicyFilterConfig,
    PassRatesConfig,
    RewardModelConfig,
    RlConfig,
    RolloutsConfig,
)
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.memory import Layout, checkpoint_bytes
from nanbeige_core.recipe.price.problem_counts import (
    STAGE_DOMAINS,
    count_problems,
    mean_problem_tokens,
    mean_prompt_tokens,
)
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.sft import decoder_of, draw, no_room
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Reading, Sampling, Training, Work

BYTES_PER_SAMPLE = Range(8, 22, 100)
"""One stored response beside its text. ours: laptop run"""
TRICKS = 4 * 48
"""Comparisons by which the reward model's weaknesses are measured."""
LEARNING_SPLITS = ("sft", "overall", "rl")
"""Splits whose open questions the reward model learns from."""


def judging(name: str, judge: Made, drawn: Sampling, comparisons: Range, assume: Assumptions) -> Sampling:
    """Return the work of comparing answers in both orders: one verdict token is looked at, none is drawn."""
    assert judge.decoder is not None
    length = drawn.prompt_tokens + 2 * drawn.response_tokens + assume.judge_tokens.range
    length = length.at_most(judge.decoder.model.max_positions)
    return Sampling(name, judge.decoder, comparisons * 2, 1, length, NOTHING)


def _judges(stage: Stage, domain: str) -> bool:
    return domain == "preference" and "reward_model" in stage.inputs


def pass_rates(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Several responses to every problem of the domain, verified or judged."""
    config = cast(PassRatesConfig, stage.config)
    pool, decoder = made["problems"].problems, decoder_of(made, "checkpoint")
    assert pool is not None
    domains = STAGE_DOMAINS[config.domain]
    count = Range.exactly(count_problems(pool, {config.split}, domains, limit=config.limit))
    prompt = mean_prompt_tokens(pool, {config.split}, assume, domains=domains)

    def sample(name: str, samples: int) -> Sampling:
        return draw(
            name, stage, decoder, config.sampling, assume,
            prompts=count, samples=samples, prompt_tokens=prompt,
        )  # fmt: skip

    drawn = sample("sample", config.samples)
    work: list[Work] = [drawn]
    if _judges(stage, config.domain):
        work.append(judging("judge", made["reward_model"], drawn, drawn.responses, assume))
        work += [sample("greedy opponents", 1)] if config.opponent == "greedy" else []
    else:
        work.append(Processing("verify", drawn.responses, assume.verdict_seconds.range))
    text = drawn.tokens * assume.characters_per_token.range * assume.row_bytes.range
    return Cost(
        made=Made(rows=count, problems=pool),
        documents=count,
        tokens=drawn.tokens,
        work=tuple(work),
        counts={"problems": count, "samples": drawn.responses},
        storage_bytes=Range(0.1 * text.low, 0.5 * text.expected, text.high) + drawn.responses * BYTES_PER_SAMPLE,
    ).noting(no_room(stage, config.sampling, decoder))


def on_policy_filter(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """A selection of rows; nothing is computed."""
    config = cast(OnPolicyFilterConfig, stage.config)
    measured, pool = made["pass_rates"].rows, made["problems"].problems
    assert pool is not None
    everything = config.low <= 0 and config.high >= 1 and not config.strict
    kept = measured * (Range(0.9, 1, 1) if everything else assume.on_policy_kept.range)
    held_out = count_problems(pool, {"heldout"}, STAGE_DOMAINS[config.domain])
    return Cost(
        made=Made(rows=kept, problems=pool),
        documents=measured,
        counts={"read": measured, "kept": kept, "heldout": Range.exactly(held_out)},
        storage_bytes=(measured + held_out) * Range(30, 100, 400),
    )


def comparisons_of(config: RlConfig | RolloutsConfig) -> int:
    """Return how many comparisons the reward scheme makes in one group."""
    size = config.group_size
    if config.reward == "pivot":
        return size - 1
    if config.reward in ("reference", "circular"):
        return size
    return size * (size - 1) // 2


def rollouts(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Groups of responses, rewarded and stored; no update."""
    config = cast(RolloutsConfig, stage.config)
    decoder, pool = decoder_of(made, "checkpoint"), made["prompts"].problems
    assert pool is not None
    groups = Range.exactly(config.steps * config.prompts_per_step)
    drawn = draw(
        "roll out", stage, decoder, config.sampling, assume, prompts=groups, samples=config.group_size,
        prompt_tokens=mean_prompt_tokens(pool, {"rl"}, assume, domains=STAGE_DOMAINS[config.domain]),
    )  # fmt: skip
    work: list[Work] = [drawn]
    if _judges(stage, config.domain):
        comparisons = groups * comparisons_of(config)
        work.append(judging("judge", made["reward_model"], drawn, comparisons, assume))
    else:
        work.append(Processing("verify", drawn.responses, assume.verdict_seconds.range))
    text = drawn.tokens * assume.characters_per_token.range * assume.row_bytes.range
    return Cost(
        made=Made(rows=drawn.responses, problems=pool),
        documents=drawn.responses,
        tokens=drawn.tokens,
        work=tuple(work),
        counts={"rollouts": drawn.responses},
        storage_bytes=Range(0.1 * text.low, 0.5 * text.expected, 4 * text.high),
    ).noting(no_room(stage, config.sampling, decoder))


def rl(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Steps of rollouts, rewards and one update each, and held-out samples before, after and while they run.

    Rollouts that another stage stored cost their verification alone.
    """
    config = cast(RlConfig, stage.config)
    decoder, pool = decoder_of(made, "checkpoint"), made["prompts"].problems
    assert pool is not None
    domains = STAGE_DOMAINS[config.domain]
    prompt = mean_prompt_tokens(pool, {"rl"}, assume, domains=domains)
    groups = Range.exactly(config.steps * config.prompts_per_step)
    judged = _judges(stage, config.domain)
    held_out = Range.exactly(count_problems(pool, {"heldout"}, domains, limit=config.heldout.limit))
    measuring = SamplingConfig(temperature=config.heldout.temperature, max_new_tokens=config.sampling.max_new_tokens)
    rollouts = draw(
        "roll out", stage, decoder, config.sampling, assume,
        prompts=groups, samples=config.group_size, prompt_tokens=prompt,
    )  # fmt: skip
    measured = draw(
        "sample held-out problems", stage, decoder, measuring, assume,
        # a win rate also needs opponents
        prompts=held_out * (3 if judged else 2) + _watched(config, pool, held_out), samples=config.heldout.samples,
        prompt_tokens=prompt,
    )  # fmt: skip
    length = prompt + rollouts.response_tokens
    trained = rollouts.responses * assume.trained_rollouts.range
    window = float(decoder.model.max_positions)
    trained_tokens = rollouts.tokens * assume.trained_rollouts.range
    positions = trained * length / assume.packing_fill.range
    micro = _micro_tokens(stage, config, positions, longest=length.expected, window=window)
    work: list[Work] = [
        *([] if "rollouts" in stage.inputs else [rollouts]),
        Training("update", decoder, positions, length.at_most(window), micro),
        measured,
    ]
    if config.updates_per_rollout > 1:
        work.append(Reading("old log-probabilities", decoder, positions, length.at_most(window), micro))
    if judged:
        comparisons = groups * comparisons_of(config) + held_out * (2 * config.heldout.samples)
        work.append(judging("judge", made["reward_model"], rollouts, comparisons, assume))
    else:
        work.append(Processing("verify", rollouts.responses + measured.responses, assume.verdict_seconds.range))
    text = rollouts.tokens * assume.characters_per_token.range * assume.row_bytes.range
    short = (
        f"{made['prompts'].rows.expected:,.0f} prompts are expected to pass the filter, a step takes "
        f"{config.prompts_per_step}: the stage would stop. Build more problems or lower prompts_per_step"
        if made["prompts"].rows.expected < config.prompts_per_step
        else ""
    )
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size),
        documents=rollouts.responses,
        tokens=Range(0, trained_tokens.expected, rollouts.tokens.high),
        work=tuple(work),
        counts={
            "steps": Range.exactly(config.steps),
            "rollouts": rollouts.responses,
            "prompts": Range(made["prompts"].rows.low * 0.9, *_upper(made["prompts"].rows)),
            "heldout_problems": held_out,
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False))
        + Range(0.1 * text.low, 0.5 * text.expected, 4 * text.high),
    ).noting(no_room(stage, config.sampling, decoder), short)


def _watched(config: RlConfig, pool: ProblemsConfig, held_out: Range) -> Range:
    """Return the problems measured while the stage runs: its own, and of earlier domains once more before it."""
    if not config.monitor.every:
        return Range.exactly(0)
    # the stages' order in the report: what comes before this one may be forgotten in it
    order = list(STAGE_DOMAINS)
    earlier = sum(
        count_problems(pool, {"heldout"}, STAGE_DOMAINS[domain], limit=config.monitor.limit)
        for domain in order[: order.index(config.domain)]
    )
    times = config.steps // config.monitor.every
    least = min(times, config.monitor.patience + 1) if config.monitor.patience else times
    return (held_out + earlier) * Range(least, times, times) + earlier


def _micro_tokens(stage: Stage, config: RlConfig, positions: Range, *, longest: float, window: float) -> float:
    """Return the positions of one micro-batch: rows are no wider than what a rank has to train on in an update."""
    updates = config.steps * config.updates_per_rollout
    share = positions.expected / updates / Layout.of(stage.runtime).data_parallel
    return min(max(share, longest), stage.runtime.micro_batch_size * window)


def _upper(rows: Range) -> tuple[float, float]:
    return rows.expected, rows.high


def reward_model(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Policy answers to open questions, then steps over pairs in both orders, judged before and after."""
    config = cast(RewardModelConfig, stage.config)
    decoder, pool = decoder_of(made, "checkpoint"), made["problems"].problems
    assert pool is not None
    count = count_problems(pool, LEARNING_SPLITS, {"general"}, limit=config.prompts)
    prompts = Range.exactly(count)
    prompt = mean_prompt_tokens(pool, LEARNING_SPLITS, assume, domains={"general"})
    drawn = draw(
        "sample rejected answers", stage, decoder, config.sampling, assume,
        prompts=prompts, samples=config.policy_samples, prompt_tokens=prompt,
    )  # fmt: skip
    window = float(decoder.model.max_positions)
    answers = mean_problem_tokens(pool, LEARNING_SPLITS, assume, domains={"general"})
    # corruptions are about as long as the reference, policy samples as long as a response
    length = answers + assume.judge_tokens.range + Range(0, 0.3, 1) * drawn.response_tokens
    length = length.at_most(window)
    examples = 2.0 * config.pairs_per_step
    most = count * (config.policy_samples + config.corruptions + config.ties)
    pairs = Range(most * 0.5, most * 0.95, count * (config.policy_samples + config.corruptions + 1))
    validation = pairs * config.validation_share
    judged = (validation * 2 + 2 * TRICKS) * 2
    trained = Range.exactly(config.steps * examples) * length
    rows = min(stage.runtime.micro_batch_size, max(examples * length.expected / window, 1))
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size),
        documents=Range.exactly(config.steps * config.pairs_per_step),
        tokens=trained,
        work=(
            drawn,
            Training("train", decoder, trained / assume.packing_fill.range, length, rows * window),
            Sampling("judge validation pairs", decoder, judged, 1, length, NOTHING),
        ),
        counts={
            "prompts": prompts,
            "steps": Range.exactly(config.steps),
            "training_pairs": pairs * Range(0.8, 1 - config.validation_share, 1),
            "validation_pairs": validation * Range(0.5, 1, 1.5),
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    ).noting(no_room(stage, config.sampling, decoder))
