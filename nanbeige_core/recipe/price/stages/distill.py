"""Costs of preference pairs and of Dual Preference Distillation."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.distill import DpdConfig, PreferencePairsConfig, TeacherLogitsConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.memory import checkpoint_bytes, micro_rows
from nanbeige_core.recipe.price.problem_counts import VERIFIED, mean_prompt_tokens, split_counts
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.rl import judging
from nanbeige_core.recipe.price.stages.sft import decoder_of, draw, heldout_sampling, no_room, pack
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Reading, Training, Work

BYTES_PER_KEPT_TOKEN, BYTES_PER_POSITION = 6, 4
"""Of a teacher cache: int32 id and fp16 log-probability; int32 position."""


def chosen_prompts(config: PreferencePairsConfig, pool: Mapping[str, int], *, judged: bool) -> dict[str, int]:
    """Return how many prompts the stage takes of each domain, evenly and no more than each has."""
    chosen: dict[str, int] = {}
    for number, domain in enumerate(config.domains):
        share = (config.prompts - sum(chosen.values())) // (len(config.domains) - number)
        chosen[domain] = min(share, pool.get(domain, 0) if judged or domain in VERIFIED else 0)
    return chosen


def preference_pairs(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Responses of teacher and student to every prompt, verified; a pair where they differ."""
    config = cast(PreferencePairsConfig, stage.config)
    pool = made["problems"].problems
    assert pool is not None
    judged = bool(config.judge) or "reward_model" in stage.inputs
    chosen = chosen_prompts(config, split_counts(pool, config.splits), judged=judged)
    asked = Range.exactly(sum(chosen.values()))
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
    work: list[Work] = [by_teacher, by_student]
    compared = sum(count for domain, count in chosen.items() if domain not in VERIFIED)
    if compared and not config.judge:
        # the fewer of both sides' samples are compared; what an endpoint computes is not this machine's
        comparisons = Range.exactly(compared * min(config.teacher_samples, config.student_samples))
        work.append(judging("judge", made["reward_model"], by_student, comparisons, assume))
    aside = pairs * config.validation_fraction
    training = pairs * (1 - config.validation_fraction)
    answers = by_teacher.response_tokens + by_student.response_tokens
    row_tokens = 2 * prompt + answers
    responses = by_teacher.responses + by_student.responses
    return Cost(
        made=Made(rows=training, held_out=aside, row_tokens=row_tokens, answer_tokens=answers, problems=pool),
        documents=asked,
        tokens=by_teacher.tokens + by_student.tokens,
        work=(*work, Processing("verify", responses, assume.verdict_seconds.range)),
        counts={"prompts": asked, "pairs": pairs},
        storage_bytes=pairs * row_tokens * assume.characters_per_token.range * assume.row_bytes.range,
    ).noting(no_room(stage, config.teacher_sampling, teacher))


def teacher_logits(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Every pair through the teacher once; an id and an fp16 log-probability for each token kept."""
    config = cast(TeacherLogitsConfig, stage.config)
    teacher, data = decoder_of(made, "teacher"), made["pairs"]
    pairs = data.rows + data.held_out
    packed = pack(Made(rows=pairs, row_tokens=data.row_tokens), config.sequence_length, assume)
    window = float(config.sequence_length)
    positions = pairs * data.answer_tokens
    kept = min(config.top_k, teacher.vocab_size)
    side = (data.row_tokens * 0.5).at_most(window)
    return Cost(
        made=Made(vocab_size=teacher.vocab_size),
        documents=pairs,
        tokens=positions,
        work=(Reading("teacher's logits", teacher, packed.sequences * window, side, window),),
        counts={"top_k": Range.exactly(kept)},
        storage_bytes=positions * (BYTES_PER_KEPT_TOKEN * kept + BYTES_PER_POSITION),
    )


def dpd(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Packed pairs through student and teacher, the reference once, and held-out problems before and after."""
    config = cast(DpdConfig, stage.config)
    decoder, data = decoder_of(made, "checkpoint"), made["pairs"]
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
            *_lessons(made, positions + 2 * aside.sequences * window, side, micro),
            *heldout_sampling(stage, config.heldout, decoder, made, assume),
        ),
        counts={
            "pairs": Range(0.8 * data.rows.low, data.rows.expected, data.rows.high),
            "sequences": trained.sequences,
            "steps": steps * config.epochs,
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    ).noting(no_room(stage, config.heldout.sampling, decoder))


def _lessons(made: Mapping[str, Made], tokens: Range, side: Range, micro: float) -> tuple[Reading, ...]:
    """Return the passes of a teacher that runs beside the student; a cache runs none."""
    if "teacher" not in made:
        return ()
    return (Reading("teacher's logits", decoder_of(made, "teacher"), tokens, side, micro, frozen=True),)
