"""Costs of preference pairs and of Dual Preference Distillation."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.distill import DpdConfig, PreferencePairsConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.memory import checkpoint_bytes, micro_rows
from nanbeige_core.recipe.price.problem_counts import VERIFIED, mean_prompt_tokens, split_counts
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.sft import decoder_of, draw, heldout_sampling, no_room, pack
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Reading, Training


def chosen_prompts(config: PreferencePairsConfig, pool: Mapping[str, int]) -> int:
    """Return how many prompts the stage takes, evenly over its domains and no more than each has."""
    chosen = 0
    for number, domain in enumerate(config.domains):
        share = (config.prompts - chosen) // (len(config.domains) - number)
        chosen += min(share, pool.get(domain, 0) if domain in VERIFIED else 0)
    return chosen


def preference_pairs(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Responses of teacher and student to every prompt, verified; a pair where they differ."""
    config = cast(PreferencePairsConfig, stage.config)
    pool = made["problems"].problems
    assert pool is not None
    asked = Range.exactly(chosen_prompts(config, split_counts(pool, config.splits)))
    prompt = mean_prompt_tokens(pool, config.splits, assume, domains=config.domains)
    student, teacher = decoder_of(made, "checkpoint"), decoder_of(made, "teacher")
    by_teacher = draw(
        "sample teacher", stage, teacher, config.teacher_sampling, assume,
        prompts=asked, samples=config.teacher_samples, prompt_tokens=prompt,
    )  # fmt: skip
    by_student = draw(
        "sample student", stage, student, config.student_sampling, assume,
        prompts=asked, samples=config.student_samples, prompt_tokens=prompt,
    )  # fmt: skip
    most = config.pairs_per_prompt
    pairs = asked * assume.pairs_kept.range
    pairs = Range(pairs.low, pairs.expected, pairs.high * most)
    aside = pairs * config.validation_fraction
    training = pairs * (1 - config.validation_fraction)
    answers = by_teacher.response_tokens + by_student.response_tokens
    row_tokens = 2 * prompt + answers
    responses = by_teacher.responses + by_student.responses
    return Cost(
        made=Made(rows=training, held_out=aside, row_tokens=row_tokens, answer_tokens=answers, problems=pool),
        documents=asked,
        tokens=by_teacher.tokens + by_student.tokens,
        work=(by_teacher, by_student, Processing("verify", responses, assume.verdict_seconds.range)),
        counts={"prompts": asked, "pairs": pairs},
        storage_bytes=pairs * row_tokens * assume.characters_per_token.range * assume.row_bytes.range,
    ).noting(no_room(stage, config.teacher_sampling, teacher))


def dpd(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Packed pairs through student and teacher, the reference once, and held-out problems before and after."""
    config = cast(DpdConfig, stage.config)
    decoder, teacher, data = decoder_of(made, "checkpoint"), decoder_of(made, "teacher"), made["pairs"]
    window = float(config.sequence_length)
    trained = pack(data, config.sequence_length, assume)
    aside = pack(Made(rows=data.held_out, row_tokens=data.row_tokens), config.sequence_length, assume)
    micro = micro_rows(stage.runtime, config.global_batch_size) * window
    side = (data.row_tokens * 0.5).at_most(window)
    steps = (trained.sequences * (1 / config.global_batch_size)).map(lambda value: float(-(-value // 1)))
    positions = trained.sequences * (config.epochs * window)
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size, measured=config.heldout),
        documents=trained.sequences * config.epochs,
        tokens=data.rows * data.answer_tokens * config.epochs,
        work=(
            Reading(
                "reference and validation", decoder, (trained.sequences + 3 * aside.sequences) * window, side, micro
            ),
            Training("train", decoder, positions, side, micro),
            Reading("teacher's logits", teacher, positions + 2 * aside.sequences * window, side, micro, frozen=True),
            *heldout_sampling(stage, config.heldout, decoder, made, assume),
        ),
        counts={
            "pairs": Range(0.8 * data.rows.low, data.rows.expected, data.rows.high),
            "sequences": trained.sequences,
            "steps": steps * config.epochs,
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    ).noting(no_room(stage, config.heldout.sampling, decoder))
