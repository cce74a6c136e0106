"""Supervised fine-tuning: the cold start and overall SFT are this one stage with different values.

Samples are packed best-fit, masked to what the assistant says, and averaged over supervised tokens with one global
denominator per step, so that neither packing nor micro-batches nor ranks change the loss.
"""

from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.evals.exact_match import Scores
from nanbeige_core.launch.ranks import rank
from nanbeige_core.lineage.ledger import ROW_LEDGER, packed_ledger
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.distill import DpdConfig
from nanbeige_core.recipe.configs.sft import SftConfig
from nanbeige_core.sft.heldout import domain_table, heldout_gain, measure_input, measure_output
from nanbeige_core.sft.order import bins_of_rows, plan_steps, rows_of_rank
from nanbeige_core.sft.packing import make_batches, supervised_tokens
from nanbeige_core.sft.samples import PackedSamples, domain_batches, load_samples, pack_samples
from nanbeige_core.sft.supervision import SUPERVISED, prove_supervision, write_supervision

HISTORY_POINTS = 200
"""Steps kept in state.json and drawn in the report."""


class Prepared(NamedTuple):
    """What a run is given, encoded and planned."""

    tokenizer: PreTrainedTokenizerFast
    train: PackedSamples
    validation: PackedSamples
    steps: list[list[int]]
    proven: list[dict[str, Any]]


def run(job: Job) -> Outcome:
    """Fine-tune the input checkpoint on an SFTDataset and measure held-out problems before and after."""
    config = cast(SftConfig, job.config)
    prepared = prepare(job, config)
    trainer = open_trainer(job, config, steps=len(prepared.steps))
    losses_before = validation_losses(trainer, prepared.validation, job, config)
    before = measure_input(job, config.heldout)
    history = _train(job, config, trainer, prepared)
    losses_after = validation_losses(trainer, prepared.validation, job, config)
    tokens = config.epochs * sum(prepared.train.supervised_in_bin)
    trainer.save(
        job.work,
        tokenizer_fingerprint=read_model_card(job.inputs["checkpoint"].path).tokenizer_fingerprint,
        stage=job.stage,
        tokens=tokens,
        history=_thin(history),
    )
    if rank() == 0:
        train = prepared.train
        packed_ledger(train.ids, train.left_out, train.bins, prepared.steps).write(job.work / ROW_LEDGER)
        write_supervision(job.work, prepared.proven)
    after = measure_output(job, config.heldout)
    return _report(job, config, prepared, history, (losses_before, losses_after), (before, after))


def prepare(job: Job, config: SftConfig) -> Prepared:
    """Read, encode, pack and plan; the same on every rank.

    Raises ValueError when the data set holds no usable sample.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    tables = [load_samples(job.inputs["data"].path / table) for table in ("samples.parquet", "validation.parquet")]
    packed = [
        pack_samples(
            tokenizer,
            rows,
            sequence_length=config.sequence_length,
            overflow=config.overflow,
            seed=config.seed,
        )
        for rows in tables
    ]
    if not packed[0].bins:
        raise ValueError(
            f"{job.inputs['data'].path}/samples.parquet: no sample fits {config.sequence_length} tokens "
            f"({packed[0].dropped} dropped), expected at least one. Raise sequence_length or check the data stage."
        )
    steps = plan_steps(
        len(packed[0].bins),
        epochs=config.epochs,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
    )
    proven = prove_supervision(tokenizer, tables[0], packed[0], count=config.shown_samples)
    return Prepared(tokenizer, packed[0], packed[1], steps, proven)


def open_trainer(job: Job, config: SftConfig | DpdConfig, *, steps: int) -> Trainer:
    """Open a trainer on the input checkpoint's weights, with a new optimiser and a cosine schedule."""
    source = job.inputs["checkpoint"].path
    card = read_model_card(source)
    schedule = LrSchedule(
        unit="steps",
        peak=config.learning_rate,
        floor=config.final_learning_rate,
        total=steps,
        warmup=int(config.warmup_fraction * steps),
        decay=None,
        shape="cosine",
    )
    trainer = Trainer.open(
        model=card.model,
        vocab_size=card.vocab_size,
        optimizer=config.optimizer,
        schedule=schedule,
        runtime=job.runtime,
        seed=config.seed,
        weights=source / "weights",
    )
    trainer.record_steps(job)
    return trainer


def validation_losses(trainer: Trainer, validation: PackedSamples, job: Job, config: SftConfig) -> dict[str, float]:
    """Return the mean loss per supervised token of each domain, in nats. Collective."""
    losses: dict[str, float] = {}
    by_domain = domain_batches(
        validation, sequence_length=config.sequence_length, micro_batch_size=job.runtime.micro_batch_size
    )
    for domain, batches in by_domain.items():
        mine = batches[trainer.data_rank :: trainer.data_size]
        loss = make_cross_entropy(supervised_tokens(batches), vocab_size=trainer.vocab_size)
        losses[domain] = trainer.evaluate(mine, loss)["loss"]
    if trainer.metrics is not None:
        trainer.metrics.record(trainer.step, {f"validation/loss/{domain}": loss for domain, loss in losses.items()})
    return losses


def _train(job: Job, config: SftConfig, trainer: Trainer, prepared: Prepared) -> list[dict[str, Any]]:
    """Take every planned step from the last resume point on; return one history entry per step."""
    points = ResumePoints(job, trainer)
    resumed = points.load() or {"history": []}
    history: list[dict[str, Any]] = resumed["history"]
    with points.training():
        for number in range(trainer.step, len(prepared.steps)):
            rows = prepared.steps[number]
            batches = make_batches(
                prepared.train.samples,
                bins_of_rows(prepared.train.bins, rows_of_rank(rows, trainer.data_rank, trainer.data_size)),
                sequence_length=config.sequence_length,
                micro_batch_size=job.runtime.micro_batch_size,
            )
            denominator = sum(prepared.train.supervised_in_bin[row] for row in rows)
            stats = trainer.train_step(batches, make_cross_entropy(denominator, vocab_size=trainer.vocab_size))
            history.append({"step": number + 1, "loss": stats.loss, "grad_norm": stats.grad_norm, "lr": stats.lr})
            job.progress((number + 1) / len(prepared.steps), f"step {number + 1}: loss {stats.loss:.3f}")
            points.after_step({"history": history}, more=number + 1 < len(prepared.steps))
    return history


def _thin(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    stride = max(1, len(history) // HISTORY_POINTS)
    return history[::stride]


def _report(
    job: Job,
    config: SftConfig,
    prepared: Prepared,
    history: list[dict[str, Any]],
    losses: tuple[dict[str, float], dict[str, float]],
    scores: tuple[Scores, Scores],
) -> Outcome:
    train, tokens = prepared.train, sum(prepared.train.supervised_in_bin)
    before, after = losses
    if rank() != 0:
        return Outcome(summary="see rank 0")
    measured = heldout_gain(*scores)
    return Outcome(
        summary=f"Fine-tuned on {len(train.samples)} samples in {len(train.bins)} packed sequences, "
        f"{config.epochs} epochs, {len(history)} steps; {tokens} supervised tokens an epoch.",
        counts={
            "samples": len(train.samples),
            "dropped_too_long": train.dropped,
            "truncated": train.truncated,
            "sequences": len(train.bins),
            "steps": len(history),
            "supervised_tokens": tokens,
        },
        metrics={
            "first_loss": history[0]["loss"],
            "last_loss": history[-1]["loss"],
            "packing_fill": train.fill / config.sequence_length,
            **{f"validation_loss_{domain}": value for domain, value in after.items()},
        },
        tokens=config.epochs * sum(len(sample.ids) for sample in train.samples),
        gain=measured,
        sections=[
            _loss_section(history),
            Section(
                title="Validation loss by domain",
                text="Nats per supervised token of held-out samples.",
                table=[{"domain": name, "before": before[name], "after": after[name]} for name in after],
            ),
            domain_table(*scores),
            _shown_samples(prepared.proven),
        ],
    )


def _loss_section(history: list[dict[str, Any]]) -> Section:
    points = _thin(history)
    return Section(
        title="Training loss",
        plot=Plot(
            kind="line",
            x=[point["step"] for point in points],
            series={"loss": [point["loss"] for point in points]},
            x_label="step",
            y_label="nats per supervised token",
        ),
    )


def _shown_samples(proven: list[dict[str, Any]]) -> Section:
    return Section(
        title="What the loss sees",
        text="Decoded supervised tokens of a few samples: nothing of a prompt, and each ends with the end token. "
        f"`{SUPERVISED}` in the artifact has them with what is not supervised.",
        table=[{"id": row["id"], "supervised text": row["supervised"]} for row in proven],
    )
