"""Costs of both fine-tuning stages and of the refinement between them."""

from collections.abc import Mapping
from typing import NamedTuple, cast

from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.sft import HeldoutConfig, RefinementConfig, SftConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.memory import checkpoint_bytes, micro_rows
from nanbeige_core.recipe.price.problem_counts import (
    VERIFIED,
    count_problems,
    mean_problem_tokens,
    mean_prompt_tokens,
    split_counts,
)
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.transformer import Decoder
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Reading, Sampling, Training, Work

BYTES_PER_TRACE = 300
"""What a refined or rejected instruction stores besides its text. ours: laptop run"""

REMARK_TOKENS, VERDICT_TOKENS = 256, 4
"""Longest checklist or critique, and longest yes or no, in tokens."""
ROW_TOKENS = 256
"""What sft.likelihood rounds its rows up to."""
EXAMPLE_TOKENS = 120.0
"""Worked turns before a question, in tokens. ours"""


class Packed(NamedTuple):
    """Samples laid out in windows."""

    sequences: Range
    tokens: Range
    """Without padding, one pass."""


def pack(data: Made, window: int, assume: Assumptions) -> Packed:
    """Return how many windows the samples of a data set fill."""
    tokens = data.rows * data.row_tokens
    sequences = (tokens / (assume.packing_fill.range * window)).map(lambda value: float(-(-value // 1)))
    return Packed(sequences, tokens)


def decoder_of(made: Mapping[str, Made], name: str) -> Decoder:
    """Return the model of an input checkpoint."""
    decoder = made[name].decoder
    assert decoder is not None
    return decoder


def response_tokens(sampling: SamplingConfig, assume: Assumptions, room: float) -> Range:
    """Return the mean response: a share of max_new_tokens, as long as a chain of thought is, within the window."""
    most = float(min(sampling.max_new_tokens, max(room, 1)))
    drawn = (assume.response_share.range * most).at_most(assume.response_tokens.range)
    return Range(drawn.low, drawn.expected, most)


def no_room(stage: Stage, sampling: SamplingConfig, decoder: Decoder) -> str:
    """Return a note when the window leaves no prompt beside a whole response; the engine then sets prompts aside."""
    if sampling.max_new_tokens < decoder.model.max_positions:
        return ""
    return (
        f"max_new_tokens {sampling.max_new_tokens} fills the model's window of {decoder.model.max_positions}: no "
        f"prompt fits beside it and every one would be set aside. Lower {stage.name}.sampling.max_new_tokens"
    )


def draw(
    name: str,
    stage: Stage,
    decoder: Decoder,
    sampling: SamplingConfig,
    assume: Assumptions,
    *,
    prompts: Range,
    samples: float,
    prompt_tokens: Range,
) -> Sampling:
    """Return the work of sampling under the stage's engine."""
    room = decoder.model.max_positions - prompt_tokens.expected
    return Sampling(
        name,
        decoder,
        prompts,
        samples,
        prompt_tokens,
        response_tokens(sampling, assume, room),
        endpoint=stage.runtime.engine == "openai",
    )


def heldout_sampling(
    stage: Stage, heldout: HeldoutConfig, decoder: Decoder, made: Mapping[str, Made], assume: Assumptions
) -> tuple[Work, ...]:
    """Return the sampling and verifying of what a stage makes, and of its input unless that has measured itself."""
    before = "checkpoint" in made and made["checkpoint"].measured != heldout
    times = 2 if before else 1
    pool = made["problems"].problems
    assert pool is not None
    count = count_problems(pool, {heldout.split}, VERIFIED, limit=heldout.problems)
    if not count:
        return ()
    prompt = mean_prompt_tokens(pool, {heldout.split}, assume, domains=VERIFIED)
    sampled = draw(
        "sample held-out problems",
        stage,
        decoder,
        heldout.sampling,
        assume,
        prompts=Range.exactly(count * times),
        samples=heldout.samples,
        prompt_tokens=prompt,
    )
    return sampled, Processing("verify", sampled.responses, assume.verdict_seconds.range)


def sft(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Passes over the packed samples, and held-out problems before and after."""
    config = cast(SftConfig, stage.config)
    decoder, data = decoder_of(made, "checkpoint"), made["data"]
    packed = pack(data, config.sequence_length, assume)
    window = float(config.sequence_length)
    training = Training(
        "train",
        decoder,
        packed.sequences * (config.epochs * window),
        data.row_tokens.at_most(window),
        micro_rows(stage.runtime, config.global_batch_size) * window,
    )
    steps = (packed.sequences * (1 / config.global_batch_size)).map(lambda value: float(-(-value // 1)))
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size, measured=config.heldout),
        documents=data.rows * config.epochs,
        tokens=packed.tokens * config.epochs,
        work=(training, *heldout_sampling(stage, config.heldout, decoder, made, assume)),
        counts={
            "samples": Range(0.9 * data.rows.low, data.rows.expected, data.rows.high),
            "sequences": packed.sequences,
            "steps": steps * config.epochs,
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    ).noting(no_room(stage, config.heldout.sampling, decoder))


def instructions(config: RefinementConfig, pool: Mapping[str, int]) -> dict[str, int]:
    """Return how many instructions of each group the stage chooses; a group is never asked for more than it has."""
    groups = {
        "math": pool["math"] + pool["science"],
        "general": pool["general"],
        "agent": pool["agent"],
        "code": pool["code"],
    }
    return {name: min(round(share * config.prompts), groups[name]) for name, share in config.mixture.shares().items()}


def _asking(
    stage: Stage,
    config: RefinementConfig,
    models: tuple[Decoder, Decoder],
    assume: Assumptions,
    *,
    asked: Range,
    judged: Range,
    shown: Range,
) -> tuple[Sampling, ...]:
    """Return what writing checklists, model judges and a critic cost; `shown` is an instruction with its response."""
    student, teacher = models
    remark = config.sampling.model_copy(update={"max_new_tokens": min(config.sampling.max_new_tokens, REMARK_TOKENS)})
    word = config.sampling.model_copy(update={"max_new_tokens": VERDICT_TOKENS})

    def ask(name: str, decoder: Decoder, sampling: SamplingConfig, count: Range) -> Sampling:
        tokens = shown + EXAMPLE_TOKENS
        return draw(name, stage, decoder, sampling, assume, prompts=count, samples=1, prompt_tokens=tokens)

    generated = config.checklist == "generated"
    questions = 1 + (config.checklist_questions if generated else 0)
    work = [ask("write checklists", teacher, remark, asked)] if generated else []
    work += [
        ask(f"judge by {name}", student if name == "student" else teacher, word, judged * questions)
        for name in config.judges
    ]
    if config.critic and config.max_rounds > 1:
        rounds = asked * assume.refinement_active.range * (config.max_rounds - 1)
        work.append(ask("criticise", student if config.critic == "student" else teacher, remark, rounds))
    return tuple(work)


def refinement(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Drafts of teacher and student, rounds of revision, judges, reconstructed chains of thought."""
    config = cast(RefinementConfig, stage.config)
    pool = made["problems"].problems
    assert pool is not None
    chosen = instructions(config, split_counts(pool, {"overall"}))
    asked = Range.exactly(sum(chosen.values()))
    student, teacher = decoder_of(made, "checkpoint"), decoder_of(made, "teacher")
    prompt = mean_prompt_tokens(pool, {"overall"}, assume)
    answer = response_tokens(config.sampling, assume, teacher.model.max_positions)
    revised = asked * assume.refinement_active.range * (config.max_rounds - 1)
    kept = asked * assume.refinement_kept.range
    longer = 2 * prompt + answer if config.reviser == "conditioned" else prompt
    with_solution = prompt + answer * 0.2 if config.chain_prompt == "prompt_and_solution" else prompt

    def sample(name: str, decoder: Decoder, prompts: Range, samples: int, prompt_tokens: Range) -> Sampling:
        return draw(
            name,
            stage,
            decoder,
            config.sampling,
            assume,
            prompts=prompts,
            samples=samples,
            prompt_tokens=prompt_tokens,
        )

    drawn = (
        sample("draft by teacher", teacher, asked, config.teacher_candidates, prompt),
        sample("draft by student", student, asked, config.student_candidates, prompt),
        sample("revise", teacher, revised, config.teacher_candidates, longer),
        sample("reconstruct chains", teacher, kept, config.reconstructions, with_solution),
    )
    judged = Range.total(each.responses for each in drawn)
    asking = _asking(stage, config, (student, teacher), assume, asked=asked, judged=judged, shown=prompt + answer)
    # rows are as wide as the longest passage, in steps of the likelihood's own rounding
    window = float(min(teacher.model.max_positions, -(-(prompt.high + answer.high) // ROW_TOKENS) * ROW_TOKENS))
    scored = (judged * (prompt + answer) / assume.packing_fill.range).map(lambda value: -(-value // window) * window)
    reading = Reading(
        "judge by likelihood",
        teacher,
        scored,
        (prompt + answer).at_most(window),
        stage.runtime.micro_batch_size * window,
        frozen=True,
    )
    rows = Range(kept.low * 0.3, kept.expected, asked.high * config.max_repeats)
    # a sample is what its problem's own answer would be, or as long as a response may get
    length = mean_problem_tokens(pool, {"overall"}, assume)
    row_tokens = Range(length.low, max(length.expected, answer.expected), max(length.high, prompt.high + answer.high))
    return Cost(
        made=Made(rows=rows, row_tokens=row_tokens, problems=pool),
        documents=asked,
        tokens=Range.total(each.tokens for each in drawn),
        work=(*drawn, *asking, reading, Processing("verify", judged, assume.verdict_seconds.range)),
        counts={"instructions": asked, "samples": rows, "instructions_kept": kept},
        storage_bytes=(rows * row_tokens * assume.characters_per_token.range + asked * BYTES_PER_TRACE)
        * assume.row_bytes.range,
    ).noting(no_room(stage, config.sampling, teacher))
