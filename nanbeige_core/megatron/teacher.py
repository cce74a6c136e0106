"""A teacher larger than the student: pretrained on the same mixture, then tuned on the same SFT samples.

The report distils from an external model; where none can be had, this stage makes one, with the same Megatron path.
Legend: B sequence, S position.
"""

from typing import NamedTuple, cast

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Gain, Job, Outcome, Plot, Section
from nanbeige_core.evals.exact_match import Scores
from nanbeige_core.launch.ranks import gather_objects, rank
from nanbeige_core.lineage.ledger import ROW_LEDGER, packed_ledger
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.blend import BlendedSource, Mixture, blend_spans, phase_weights
from nanbeige_core.megatron.held_out import compare_losses, measure_held_out, read_held_out
from nanbeige_core.megatron.pretrain import History, Phase, sum_over_data_ranks, thin, train_phase
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.stream_cursors import StreamCursors
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.pretrain import PhaseTokens, TeacherConfig
from nanbeige_core.recipe.phase_plan import PhasePlan, Span
from nanbeige_core.sft.heldout import measure_output
from nanbeige_core.sft.order import bins_of_rows, plan_steps, rows_of_rank
from nanbeige_core.sft.packing import make_batches
from nanbeige_core.sft.samples import PackedSamples, load_samples, pack_samples


class Tuned(NamedTuple):
    """What the SFT half did."""

    history: History
    gain: Gain
    samples: int


def run(job: Job) -> Outcome:
    """Pretrain, tune and save the teacher; each half goes on from its own resume point."""
    config = cast(TeacherConfig, job.config)
    mixture = Mixture.open(job.inputs["mixture"].path)
    pretrained, pretraining_gain = pretrain(job, config, mixture)
    tuned = tune(job, config, mixture)
    scores = measure_output(job, config.heldout)
    return _report(config, pretrained, pretraining_gain, tuned, scores)


def pretrain(job: Job, config: TeacherConfig, mixture: Mixture) -> tuple[History, Gain]:
    """Train on the token-weighted mean of the four blends under one WSD schedule; weights go to scratch."""
    trainer = _open(job, config, mixture, _wsd(config, _pretraining_steps(config)), part="pretrain")
    held_out = read_held_out(
        mixture,
        sequence_length=config.sequence_length,
        sequences=config.validation_sequences,
        rows=job.runtime.micro_batch_size,
    )
    before = measure_held_out(trainer, held_out)
    history = train_phase(_part(job, "pretrain", 0.0, 0.7), trainer, open_teacher_phase(config, mixture))
    gain = compare_losses(before, measure_held_out(trainer, held_out))
    trainer.save(job.scratch / "pretrained", tokenizer_fingerprint=mixture.tokenizer_fingerprint, stage=job.stage)
    return history, gain


def tune(job: Job, config: TeacherConfig, mixture: Mixture) -> Tuned:
    """Train the pretrained weights on packed SFT samples, mean over supervised tokens, and save the Checkpoint."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    train, validation = (
        pack_samples(
            tokenizer,
            load_samples(job.inputs["data"].path / table),
            sequence_length=config.sft_sequence_length,
            overflow="drop",
            seed=config.seed,
        )
        for table in ("samples.parquet", "validation.parquet")
    )
    steps = plan_steps(
        len(train.bins), epochs=config.sft_epochs, global_batch_size=config.sft_global_batch_size, seed=config.seed
    )
    schedule = LrSchedule(
        peak=config.sft_learning_rate,
        floor=0.1 * config.sft_learning_rate,
        total=max(len(steps), 1),
        warmup=int(config.sft_warmup_fraction * len(steps)),
        shape="cosine",
    )
    trainer = _open(job, config, mixture, schedule, part="sft")
    trainer.load_weights(job.scratch / "pretrained" / "weights")
    before = _row_losses(job, config, trainer, validation)
    history = _sft_steps(_part(job, "sft", 0.7, 1.0), config, trainer, train, steps)
    gain = compare_losses(before, _row_losses(job, config, trainer, validation))
    trainer.save(
        job.work,
        tokenizer_fingerprint=mixture.tokenizer_fingerprint,
        stage=job.stage,
        tokens=config.tokens,
        history=thin(history),
    )
    if rank() == 0:
        packed_ledger(train.ids, train.left_out, train.bins, steps).write(job.work / ROW_LEDGER)
        open_teacher_phase(config, mixture).source.planned().save(job.work)
    return Tuned(history, _renamed(gain), len(train.samples))


def _renamed(gain: Gain) -> Gain:
    return gain.model_copy(update={"metric": "SFT validation loss"})


def _open(job: Job, config: TeacherConfig, mixture: Mixture, schedule: LrSchedule, *, part: str) -> Trainer:
    window = max(config.sequence_length, config.sft_sequence_length)
    trainer = Trainer.open(
        model=config.model.model_copy(update={"max_positions": window}),
        vocab_size=mixture.vocab_size,
        optimizer=config.optimizer,
        schedule=schedule,
        runtime=job.runtime,
        seed=config.seed,
    )
    trainer.record_steps(job, part=part)
    return trainer


def _wsd(config: TeacherConfig, steps: int) -> LrSchedule:
    return LrSchedule(
        peak=config.peak_lr,
        floor=config.floor_lr,
        total=steps,
        warmup=int(config.warmup_fraction * steps),
        decay=int(config.decay_fraction * steps),
        shape="linear",
    )


def open_teacher_phase(config: TeacherConfig, mixture: Mixture) -> Phase:
    """Open the sets of the teacher's one phase, from their beginnings."""
    steps = _pretraining_steps(config)
    weights = phase_weights(mixture.content, "hq_stable", blend="vanilla", tokens=PhaseTokens.model_validate({}))
    plan = PhasePlan(0, [Span(steps, config.sequence_length, config.global_batch_size)])
    streams = [mixture.stream(name, seed=config.seed) for name in weights]
    source = BlendedSource(streams, blend_spans(list(weights.values()), plan), [0] * len(streams), plan)
    return Phase(source, weights, StreamCursors(source), None)


def _pretraining_steps(config: TeacherConfig) -> int:
    return max(round(config.tokens / (config.global_batch_size * config.sequence_length)), 1)


def _part(job: Job, name: str, begin: float, end: float) -> Job:
    """Return the job with its own resume directory, its progress mapped into [begin, end]."""

    def progress(fraction: float, text: str) -> None:
        job.progress(begin + fraction * (end - begin), f"{name}: {text}")

    return Job(job.stage, job.config, job.runtime, job.inputs, job.scratch / name, job.cache, progress)


def _batches(job: Job, config: TeacherConfig, packed: PackedSamples, rows: list[int]) -> list[Batch]:
    return make_batches(
        packed.samples,
        bins_of_rows(packed.bins, rows),
        sequence_length=config.sft_sequence_length,
        micro_batch_size=job.runtime.micro_batch_size,
    )


def _sft_steps(
    job: Job, config: TeacherConfig, trainer: Trainer, train: PackedSamples, steps: list[list[int]]
) -> History:
    points = ResumePoints(job, trainer)
    resumed = points.load() or {"history": []}
    history: History = resumed["history"]
    with points.training():
        for number in range(len(history), len(steps)):
            rows = rows_of_rank(steps[number], trainer.data_rank, trainer.data_size)
            batches = _batches(job, config, train, rows)
            supervised = sum_over_data_ranks(float(sum(batch.loss_mask_BS.sum() for batch in batches)))
            stats = trainer.train_step(batches, make_cross_entropy(supervised))
            history.append({"step": number + 1, "loss": stats.loss, "lr": stats.lr})
            job.progress((number + 1) / len(steps), f"step {number + 1} of {len(steps)}: loss {stats.loss:.3f}")
            points.after_step({"history": history}, more=number + 1 < len(steps))
    return history


def _row_losses(job: Job, config: TeacherConfig, trainer: Trainer, packed: PackedSamples) -> list[float]:
    """Return the mean supervised loss of each packed validation row, in order, on every rank; collective."""
    mine = list(range(trainer.data_rank, len(packed.bins), trainer.data_size))
    batches = _batches(job, config, packed, mine)
    losses: list[float] = []
    for batch, logp_BS in zip(batches, trainer.log_probs(batches) if batches else [], strict=True):
        mask_BS = batch.loss_mask_BS.to(logp_BS.device)
        losses += (-(logp_BS * mask_BS).sum(1) / mask_BS.sum(1)).tolist()
    merged: dict[int, float] = {}
    for part in gather_objects(dict(zip(mine, losses, strict=True))):
        merged |= part
    return [merged[row] for row in sorted(merged)]


def _report(config: TeacherConfig, pretrained: History, gain: Gain, tuned: Tuned, scores: Scores) -> Outcome:
    exact = sum(scores.values) / len(scores.values) if scores.values else float("nan")
    sections = [
        _curve("Pretraining loss", pretrained, "tokens"),
        _curve("SFT loss", tuned.history, "step"),
        Section(
            title="What the teacher learned",
            table=[
                {"measure": "validation loss, pretraining", "before": gain.before, "after": gain.after},
                {"measure": "SFT validation loss", "before": tuned.gain.before, "after": tuned.gain.after},
                {"measure": "held-out exact match", "before": None, "after": exact},
            ],
        ),
    ]
    model = config.model
    metrics = {"pretraining_validation_loss": gain.after, "sft_validation_loss": tuned.gain.after}
    return Outcome(
        summary=(
            f"Trained a teacher of {model.layers} layers, width {model.hidden_size}, on {config.tokens:,} tokens and "
            f"{config.sft_epochs} passes over {tuned.samples:,} SFT samples; held-out exact match {exact:.1%}."
        ),
        counts={"pretraining_steps": len(pretrained), "sft_steps": len(tuned.history), "sft_samples": tuned.samples},
        metrics=metrics | ({"heldout_exact_match": exact} if scores.values else {}),
        tokens=config.tokens,
        gain=tuned.gain,
        sections=sections,
    )


def _curve(title: str, history: History, axis: str) -> Section:
    kept = thin(history)
    x: list[float | str] = [entry[axis] for entry in kept]
    losses = [entry["loss"] for entry in kept]
    plot = Plot(kind="line", x=x, series={"loss": losses}, x_label=axis, y_label="loss (nats per token)")
    return Section(title=title, plot=plot if kept else None)
