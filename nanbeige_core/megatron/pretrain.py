"""FG-WSD pretraining: one run of one model in four stages (report section 3).

    warmup -> diversity-enriched stable -> high-quality stable -> decay with a longer window

All four share one learning-rate schedule counted in tokens; a phase changes the blend of the data and nothing else,
so data and rate are never confounded. Weights, optimizer, schedule position and the place in every data set go from
one phase's checkpoint to the next.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist

from nanbeige_core.contract import Gain, Job, Outcome, Plot, Runtime, Section
from nanbeige_core.evals.records import write_records
from nanbeige_core.launch.ranks import rank
from nanbeige_core.megatron import device, parallel, resume
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.blend import (
    BlendedSource,
    Mixture,
    Position,
    blend_spans,
    make_batch,
    phase_weights,
)
from nanbeige_core.megatron.even_blend import even_blends
from nanbeige_core.megatron.held_out import (
    BETTER_HALF,
    BOTH_TIERS,
    compare_losses,
    gain_table,
    measure_held_out,
    number_sequences,
    read_measures,
)
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.stream_cursors import StreamCursors
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.configs.pretrain import FgwsdConfig
from nanbeige_core.recipe.phase_plan import Span, plan_phase, step_boundaries

History = list[dict[str, float]]
HISTORY_POINTS = 400
"""Steps kept in state.json and drawn in the report."""


STATE_OF = {BOTH_TIERS: "validation_losses", BETTER_HALF: "validation_losses_hq"}
"""Where state.json keeps what each measure was at the phase's end, so that the next one need not measure again."""


class Phase(NamedTuple):
    """What one phase trains on."""

    source: BlendedSource
    weights: dict[str, float]
    cursors: StreamCursors
    end_of_document: int | None


def run(job: Job) -> Outcome:
    """Train one phase, from scratch (warmup) or going on from the previous phase's checkpoint."""
    config = cast(FgwsdConfig, job.config)
    mixture = Mixture.open(job.inputs["mixture"].path)
    previous = job.inputs["checkpoint"].path if "checkpoint" in job.inputs else None
    _require_order(config, previous)
    trainer = open_trainer(config, job.runtime, vocab_size=mixture.vocab_size)
    trainer.record_steps(job)
    state: dict[str, Any] = resume.load_optimizer(trainer, previous) if previous else {}
    phase = open_phase(config, mixture, state.get("ledger", {}))
    held_out = read_measures(
        mixture,
        sequence_length=config.sequence_length,
        sequences=config.validation_sequences,
        rows=job.runtime.micro_batch_size,
    )
    before: dict[str, list[float]] = {}
    for measure, part in held_out.items():
        known: list[float] = state.get(STATE_OF[measure], [])
        before[measure] = known if len(known) == part.sequences else measure_held_out(trainer, part)
    history = train_phase(job, trainer, phase)
    after = {measure: measure_held_out(trainer, part) for measure, part in held_out.items()}
    if rank() == 0:
        write_records(job.work, {measure: number_sequences(losses) for measure, losses in after.items()})
    ledger = state.get("ledger", {}) | phase.cursors.finish()
    trainer.save(
        job.work,
        tokenizer_fingerprint=mixture.tokenizer_fingerprint,
        stage=job.stage,
        tokens=trainer.tokens,
        history=thin(history),
        extra={
            "ledger": ledger,
            "phase": config.phase,
            **{STATE_OF[measure]: losses for measure, losses in after.items()},
        },
        with_optimizer=config.phase != "decay",
    )
    if rank() == 0:
        phase.source.planned().save(job.work)
    gains = {measure: compare_losses(before[measure], after[measure]) for measure in held_out}
    return report(config, phase, history, gains, mixture)


def _require_order(config: FgwsdConfig, previous: Path | None) -> None:
    if (previous is None) != (config.phase == "warmup"):
        raise ValueError(
            f"phase {config.phase} was given {'no' if previous is None else 'a'} checkpoint: warmup starts from "
            "scratch and every later phase goes on from the one before. Fix the stage's inputs in pipelines.yaml."
        )


def phase_model(config: FgwsdConfig) -> ModelConfig:
    """Return the model of the phase: in decay RoPE base and window are extended (ABF), else as configured."""
    if config.phase != "decay" or config.abf.fraction == 0:
        return config.model.model_copy(update={"max_positions": config.sequence_length})
    return config.model.model_copy(update={"rope_theta": config.abf.theta, "max_positions": config.abf.sequence_length})


def rate_schedule(config: FgwsdConfig) -> LrSchedule:
    """Return the one schedule of all four phases, in tokens of whole steps."""
    begin = step_boundaries(config)
    per_step = config.global_batch_size * config.sequence_length
    return LrSchedule(
        unit="tokens",
        peak=config.peak_lr,
        floor=config.floor_lr,
        total=begin[4] * per_step,
        warmup=begin[1] * per_step,
        decay=(begin[4] - begin[3]) * per_step,
        shape=config.decay_shape,
    )


def open_trainer(config: FgwsdConfig, runtime: Runtime, *, vocab_size: int) -> Trainer:
    """Open the trainer of the phase with freshly initialised weights."""
    return Trainer.open(
        model=phase_model(config),
        vocab_size=vocab_size,
        optimizer=config.optimizer,
        schedule=rate_schedule(config),
        runtime=runtime,
        seed=config.seed,
    )


def open_phase(config: FgwsdConfig, mixture: Mixture, ledger: dict[str, int]) -> Phase:
    """Open the phase's sets at the positions the ledger gives (0 where a set was never used)."""
    plan = plan_phase(config)
    if config.blend == "even":
        names, orders = even_blends(config, mixture.content)
        samples = [sum(column) for column in zip(*(order.counts for order in orders), strict=True)]
        weights = {name: float(count / sum(samples)) for name, count in zip(names, samples, strict=True)}
    else:
        weights = phase_weights(mixture.content, config.phase, blend=config.blend, tokens=config.phase_tokens)
        orders = blend_spans(list(weights.values()), plan)
    masked = config.document_masking == "always" or (config.document_masking == "decay" and config.phase == "decay")
    source = BlendedSource(
        [mixture.stream(name, seed=config.seed) for name in weights],
        orders,
        [ledger.get(name, 0) for name in weights],
        plan,
    )
    return Phase(source, weights, StreamCursors(source), mixture.end_of_document() if masked else None)


def train_phase(job: Job, trainer: Trainer, phase: Phase) -> History:
    """Take every step of the phase that the newest resume point has not taken; return one entry per step."""
    points = ResumePoints(job, trainer)
    resumed = points.load() or {"history": [], "cursors": phase.cursors.at}
    history: History = resumed["history"]
    phase.cursors.at = list(resumed["cursors"])
    steps = phase.source.plan.steps
    with points.training():
        for step in range(len(history), steps):
            span, positions = phase.source.step_samples(step)
            batches = rank_batches(phase, span, positions, trainer, rows=job.runtime.micro_batch_size)
            trained = sum_over_data_ranks(float(sum(batch.loss_mask_BS.sum() for batch in batches)))
            stats = trainer.train_step(batches, make_cross_entropy(trained))
            phase.cursors.record(span, positions, step=step)
            entry = {"tokens": trainer.tokens, "loss": stats.loss, "lr": stats.lr, "gradient_norm": stats.grad_norm}
            history.append(entry)
            job.progress((step + 1) / steps, f"step {step + 1} of {steps}: loss {stats.loss:.3f}, rate {stats.lr:.2e}")
            points.after_step({"history": history, "cursors": phase.cursors.at}, more=step + 1 < steps)
    return history


def sum_over_data_ranks(value: float) -> float:
    """Return the sum of a number over data-parallel ranks; one all-reduce."""
    total = torch.tensor([value], dtype=torch.float64, device=device.device())
    dist.all_reduce(total, group=parallel.data_group())
    return float(total)


def rank_batches(phase: Phase, span: Span, positions: list[Position], trainer: Trainer, *, rows: int) -> list[Batch]:
    """Return this data-parallel rank's micro-batches of a step's samples.

    `rows` is for the short window; at a longer one as many fewer, so that a micro-batch keeps its tokens. Raises
    ValueError when the step's sequences do not divide over the ranks.
    """
    if len(positions) % trainer.data_size:
        raise ValueError(
            f"a step has {len(positions)} sequences of {span.sequence_length} tokens, {trainer.data_size} "
            "data-parallel ranks cannot share them equally: choose runtime.processes that divides it, or another "
            "global_batch_size."
        )
    mine = positions[trainer.data_rank :: trainer.data_size]
    samples = [phase.source.read(position, span.sequence_length) for position in mine]
    rows = _rows_at(span, phase.source.plan.spans[0], rows)
    return [
        make_batch(samples[at : at + rows], end_of_document=phase.end_of_document)
        for at in range(0, len(samples), rows)
    ]


def _rows_at(span: Span, first: Span, rows: int) -> int:
    return max(rows * first.sequence_length // span.sequence_length, 1)


def thin(history: History) -> History:
    """Keep at most HISTORY_POINTS entries, the last one among them."""
    stride = -(-len(history) // HISTORY_POINTS)
    return history[::-1][::stride][::-1]


def report(config: FgwsdConfig, phase: Phase, history: History, gains: dict[str, Gain], mixture: Mixture) -> Outcome:
    """Describe what the phase did; of its measures the one over both tiers is the stage's gain."""
    gain = gains[BOTH_TIERS]
    kept = thin(history)
    tokens = [entry["tokens"] for entry in kept]
    sections = [
        Section(title="Training loss", plot=_plot(tokens, "loss", kept, "loss (nats per token)")),
        Section(title="Learning rate", plot=_plot(tokens, "lr", kept, "learning rate")),
        Section(
            title="Held-out loss",
            text="Nats a token. Documents of both tiers favour a blend of both; those of the better half are what the "
            "later phases train for.",
            table=gain_table(gains),
        ),
        Section(
            title="Blend",
            text="Tokens drawn from each set in this phase; every set goes on where the last phase left it.",
            table=_blend_table(phase, mixture),
        ),
    ]
    trained = sum(span.steps * span.sequences_per_step * span.sequence_length for span in phase.source.plan.spans)
    windows = ", then ".join(f"{span.steps} steps at {span.sequence_length} tokens" for span in phase.source.plan.spans)
    return Outcome(
        summary=(
            f"Trained phase {config.phase} on {trained:,} tokens ({windows}); "
            f"validation loss {gain.before:.3f} -> {gain.after:.3f}."
        ),
        counts={"steps": len(history), "sets": len(phase.weights)},
        metrics={
            "train_loss": history[-1]["loss"],
            "learning_rate": history[-1]["lr"],
            **{measure: found.after for measure, found in gains.items()},
        },
        tokens=trained,
        gain=gain,
        sections=sections,
    )


def _plot(tokens: list[float], name: str, history: History, label: str) -> Plot:
    values = [entry[name] for entry in history]
    return Plot(kind="line", x=list(tokens), series={name: values}, x_label="tokens", y_label=label)


def _blend_table(phase: Phase, mixture: Mixture) -> list[dict[str, Any]]:
    sizes: dict[str, int] = {entry["name"]: entry["tokens"] for entry in mixture.content["sets"]}
    rows: list[dict[str, Any]] = []
    drawn = zip(phase.weights.items(), phase.source.offsets[0], phase.source.ends, strict=True)
    for (name, weight), begin, end in drawn:
        rows.append(
            {
                "set": name,
                "weight": round(weight, 4),
                "tokens": end - begin,
                "epochs so far": round(end / sizes[name], 3),
            }
        )
    return rows


def read_ledger(checkpoint: Path) -> dict[str, int]:
    """Return how many tokens of each set's stream the checkpoint's run has consumed."""
    return json.loads((checkpoint / "state.json").read_text())["ledger"]
