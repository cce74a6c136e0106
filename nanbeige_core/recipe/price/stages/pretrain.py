"""Costs of the four FG-WSD phases, the teacher and the export."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.contract import Runtime
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.pretrain import PHASES, ExportConfig, FgwsdConfig, TeacherConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.phase_plan import Span, plan_phase
from nanbeige_core.recipe.price.memory import checkpoint_bytes, micro_rows
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.sft import heldout_sampling, pack
from nanbeige_core.recipe.price.transformer import Decoder
from nanbeige_core.recipe.price.work import Cost, Made, Reading, Sampling, Training, Work

BOTH_AND_BETTER = Range(1, 2, 2)
"""Held-out sets measured: documents of both tiers, and where there are enough, of the better half alone."""
REPORTED_EPOCHS = 8
"""More passes over the mixture than this get a note; the report repeats its best text two or more times."""


def fgwsd(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Exactly the steps of the phase, and both sets of held-out sequences before (in warmup) and after."""
    del assume
    config = cast(FgwsdConfig, stage.config)
    mixture = made["mixture"]
    plan = plan_phase(config)
    decoder = Decoder(_phase_model(config), mixture.vocab_size)
    masked = config.document_masking == "always" or (config.document_masking == "decay" and config.phase == "decay")
    work: list[Work] = [
        _training(span, plan.spans[0], decoder, stage.runtime, mixture.row_tokens if masked else None)
        for span in plan.spans
    ]
    times = (2 if config.phase == "warmup" else 1) * BOTH_AND_BETTER
    work.append(_held_out(decoder, config, stage.runtime, mixture, times=times))
    tokens = sum(span.steps * span.sequences_per_step * span.sequence_length for span in plan.spans)
    with_optimizer = config.phase != "decay"
    return Cost(
        made=Made(decoder=decoder, vocab_size=mixture.vocab_size),
        documents=Range.exactly(sum(span.steps * span.sequences_per_step for span in plan.spans)),
        tokens=Range.exactly(tokens),
        work=tuple(work),
        counts={"steps": Range.exactly(plan.steps)},
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=with_optimizer)),
    ).noting(_repeats(config, mixture))


def _phase_model(config: FgwsdConfig) -> ModelConfig:
    extended = config.phase == "decay" and config.abf.fraction > 0
    window = config.abf.sequence_length if extended else config.sequence_length
    return config.model.model_copy(update={"max_positions": window})


def _training(span: Span, first: Span, decoder: Decoder, runtime: Runtime, document: Range | None) -> Training:
    window = float(span.sequence_length)
    segment = Range.exactly(window) if document is None else document.at_most(window)
    if document is not None:
        segment = Range(segment.low, segment.expected, window)
    rows = max(micro_rows(runtime, first.sequences_per_step) * first.sequence_length // span.sequence_length, 1)
    return Training(
        name=f"train at {span.sequence_length}",
        decoder=decoder,
        tokens=Range.exactly(float(span.steps * span.sequences_per_step * span.sequence_length)),
        segment=segment,
        micro_tokens=rows * window,
    )


def _held_out(
    decoder: Decoder, config: FgwsdConfig | TeacherConfig, runtime: Runtime, mixture: Made, *, times: Range
) -> Reading:
    window = float(config.sequence_length)
    # a small held-out set gives fewer sequences, but never less than two
    available = (mixture.held_out * mixture.row_tokens).at_least(2 * window)
    tokens = available.at_most(config.validation_sequences * window) * times
    rows = runtime.micro_batch_size
    return Reading("measure held-out loss", decoder, tokens, Range.exactly(window), rows * window)


def _repeats(config: FgwsdConfig, mixture: Made) -> str:
    """Return a note, in the first phase, when all phases together read the mixture far more often than the report."""
    pool = max((mixture.rows * mixture.row_tokens).expected, 1)
    trained = sum(config.phase_tokens.of(phase) for phase in PHASES)
    if config.phase != PHASES[0] or trained / pool <= REPORTED_EPOCHS:
        return ""
    return (
        f"the four phases read the mixture {trained / pool:,.0f} times: {trained:,} tokens are trained, about "
        f"{pool:,.0f} are there. Name your corpus under ingest.sources; --corpus-tokens N prices the data stages "
        "for one of N tokens"
    )


def teacher(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Pretraining steps exactly, then passes over the packed SFT samples."""
    config = cast(TeacherConfig, stage.config)
    window = max(config.sequence_length, config.sft_sequence_length)
    decoder = Decoder(config.model.model_copy(update={"max_positions": window}), made["mixture"].vocab_size)
    per_step = config.global_batch_size * config.sequence_length
    steps = max(round(config.tokens / per_step), 1)
    span = Span(steps, config.sequence_length, config.global_batch_size)
    data = made["data"]
    packed = pack(data, config.sft_sequence_length, assume)
    rows = micro_rows(stage.runtime, config.sft_global_batch_size)
    work: list[Work] = [
        _training(span, span, decoder, stage.runtime, None),
        _held_out(decoder, config, stage.runtime, made["mixture"], times=Range.exactly(2)),
        Training(
            "tune",
            decoder,
            packed.sequences * float(config.sft_epochs * config.sft_sequence_length),
            data.row_tokens.at_most(config.sft_sequence_length),
            rows * float(config.sft_sequence_length),
        ),
    ]
    sampled = heldout_sampling(stage, config.heldout, decoder, made, assume)
    sft_steps = (packed.sequences * (1 / config.sft_global_batch_size)).map(lambda value: float(-(-value // 1)))
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size, measured=config.heldout),
        documents=Range.exactly(float(steps * config.global_batch_size)) + data.rows * config.sft_epochs,
        tokens=Range.exactly(config.tokens),
        work=(*work, *sampled),
        counts={
            "pretraining_steps": Range.exactly(steps),
            "sft_steps": sft_steps * config.sft_epochs,
            "sft_samples": Range(0.9 * data.rows.low, data.rows.expected, data.rows.high),
        },
        storage_bytes=Range.exactly(checkpoint_bytes(decoder, with_optimizer=False)),
    )


def export(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """One folder of weights, a comparison of logits, and a few answers."""
    del assume
    config = cast(ExportConfig, stage.config)
    decoder = made["checkpoint"].decoder
    assert decoder is not None
    probe = min(config.probe_tokens, decoder.model.max_positions)
    answer = Range(1, config.sampling.max_new_tokens, config.sampling.max_new_tokens)
    prompts = Range.exactly(len(config.prompts))
    return Cost(
        made=Made(decoder=decoder, vocab_size=decoder.vocab_size),
        documents=Range.exactly(1),
        work=(
            Reading("compare logits", decoder, Range.exactly(2.0 * probe), Range.exactly(probe), probe),
            Sampling("answer", decoder, prompts, 1, Range(10, 20, 40), answer),
        ),
        counts={"parameters": Range.exactly(decoder.unpadded_parameters), "probe_tokens": Range.exactly(probe)},
        storage_bytes=Range.exactly(decoder.unpadded_parameters * decoder.dtype_bytes),
    )
