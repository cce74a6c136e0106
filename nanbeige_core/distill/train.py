"""Dual-level preference distillation (report): the student learns from pairs and from its teacher's distributions."""

import json
import math
from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.data.tables import read_rows
from nanbeige_core.distill.losses import Denominators, count_denominators
from nanbeige_core.distill.objective import make_dpd_loss
from nanbeige_core.distill.pair_batches import PackedPairs, encode_pair, make_pair_batches, pack_pairs
from nanbeige_core.distill.reference import ReferenceLogProbs, reference_log_probs
from nanbeige_core.distill.report import Evidence, dpd_report
from nanbeige_core.distill.teachers import Annotation, TeacherChoice
from nanbeige_core.distill.teaching import Teaching
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.launch.ranks import rank
from nanbeige_core.lineage.ledger import ROW_LEDGER, packed_ledger
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.trainer import StepStats, Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.distill import DpdConfig
from nanbeige_core.sft.heldout import measure_input, measure_output
from nanbeige_core.sft.order import bins_of_rows, plan_steps, rows_of_rank
from nanbeige_core.sft.train import open_trainer

FIRST_LOSS_TOLERANCE = 1e-3
"""How far the first step's DPO loss may be from ln 2."""


class PairSet(NamedTuple):
    """Packed pairs with their reference log-probabilities and, per sequence, what its terms are divided by."""

    packed: PackedPairs
    annotation: Annotation
    reference: ReferenceLogProbs
    counts: list[Denominators]

    def denominators(self, rows: list[int]) -> Denominators:
        """Return the denominators of a set of sequences."""
        return Denominators(*(sum(column) for column in zip(*(self.counts[row] for row in rows), strict=True)))


def run(job: Job) -> Outcome:
    """Distil the teacher into the input checkpoint over preference pairs; report both levels and held-out gain."""
    config = cast(DpdConfig, job.config)
    choice = TeacherChoice(job, config)
    annotated = {name: _load_pairs(job, config, choice, name) for name in ("pairs", "validation")}
    packed = {name: annotation.packed for name, annotation in annotated.items()}
    steps = plan_steps(
        len(packed["pairs"].bins),
        epochs=config.epochs,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
    )
    trainer = open_trainer(job, config, steps=len(steps))
    teacher = choice.open(_shard(trainer))
    sets = {name: _with_reference(job, config, trainer, part, name) for name, part in annotated.items()}
    before = _evaluate(job, config, trainer, teacher, sets["validation"])
    scores_before = measure_input(job, config.heldout)
    history = _train(job, config, trainer, teacher, sets["pairs"], steps)
    after = _evaluate(job, config, trainer, teacher, sets["validation"])
    trainer.save(
        job.work,
        tokenizer_fingerprint=read_model_card(job.inputs["checkpoint"].path).tokenizer_fingerprint,
        stage=job.stage,
        tokens=config.epochs * sum(sum(count[1:]) for count in sets["pairs"].counts),
        history=history,
    )
    if rank() == 0:
        _write_ledger(job, packed["pairs"], steps)
    scores_after = measure_output(job, config.heldout)
    return dpd_report(Evidence(packed, history, before, after, scores_before, scores_after))


def _write_ledger(job: Job, packed: PackedPairs, steps: list[list[int]]) -> None:
    ids = [row["id"] for row in read_rows(job.inputs["pairs"].path / "pairs.parquet", ("id",))]
    kept = [ids[index] for index in packed.kept]
    packed_ledger(kept, sorted(set(ids) - set(kept)), packed.bins, steps).write(job.work / ROW_LEDGER)


def _load_pairs(job: Job, config: DpdConfig, choice: TeacherChoice, name: str) -> Annotation:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    table = job.inputs["pairs"].path / f"{name}.parquet"
    rows = list(read_rows(table, ("id", "prompt", "chosen", "rejected")))
    pairs = [encode_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in rows]
    packed = pack_pairs(pairs, config.sequence_length)
    if not packed.bins or (packed.dropped and config.overflow == "refuse"):
        raise ValueError(
            f"{table}: {packed.dropped} of {len(rows)} pairs do not fit {config.sequence_length} tokens, "
            f"{len(packed.pairs)} do: a pair is never cut. Raise sequence_length or shorten the responses."
        )
    return choice.annotate(packed, rows)


def _with_reference(job: Job, config: DpdConfig, trainer: Trainer, annotation: Annotation, name: str) -> PairSet:
    packed = annotation.packed
    reference = reference_log_probs(
        trainer,
        packed.pairs,
        packed.bins,
        sequence_length=config.sequence_length,
        micro_batch_size=job.runtime.micro_batch_size,
        chunk=config.divergence_chunk,
        path=job.scratch / f"reference-{name}.npy",
    )
    rows = make_pair_batches(packed.pairs, packed.bins, sequence_length=config.sequence_length, micro_batch_size=1)
    for row, members in zip(rows, packed.bins, strict=True):
        annotation.attach(row, [members])
    return PairSet(packed, annotation, reference, [count_denominators([row]) for row in rows])


def _batches(job: Job, config: DpdConfig, pairs: PairSet, rows: list[int]) -> list[Batch]:
    """Return the micro-batches of some sequences, with the reference's log-probabilities."""
    size = job.runtime.micro_batch_size
    batches = make_pair_batches(
        pairs.packed.pairs,
        bins_of_rows(pairs.packed.bins, rows),
        sequence_length=config.sequence_length,
        micro_batch_size=size,
    )
    members = bins_of_rows(pairs.packed.bins, rows)
    for number, batch in enumerate(batches):
        pairs.annotation.attach(batch, members[number * size : (number + 1) * size])
        batch.extra["reference_BS"] = pairs.reference.rows(rows[number * size : (number + 1) * size])
    return batches


def _shard(trainer: Trainer) -> VocabularyShard:
    return VocabularyShard(trainer.vocab_size, parallel.tensor_group())


def _evaluate(job: Job, config: DpdConfig, trainer: Trainer, teacher: Teaching, pairs: PairSet) -> dict[str, float]:
    """Return the loss and its metrics on a whole set, as many sequences at a time as a training step has."""
    everything = list(range(len(pairs.packed.bins)))
    loss = make_dpd_loss(config, pairs.denominators(everything), _shard(trainer), teacher)
    totals: dict[str, float] = {}
    for begin in range(0, len(everything), config.global_batch_size):
        rows = everything[begin : begin + config.global_batch_size]
        batches = _batches(job, config, pairs, rows[trainer.data_rank :: trainer.data_size])
        teacher.prepare(batches)
        for name, value in trainer.evaluate(batches, loss).items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _train(
    job: Job,
    config: DpdConfig,
    trainer: Trainer,
    teacher: Teaching,
    pairs: PairSet,
    steps: list[list[int]],
) -> list[dict[str, Any]]:
    """Take every planned step from the last resume point on; return one history entry per step."""
    points = ResumePoints(job, trainer)
    resumed = points.load() or {"history": []}
    history: list[dict[str, Any]] = resumed["history"]
    with points.training():
        for number in range(trainer.step, len(steps)):
            measured = config.gradient_norm_every > 0 and number % config.gradient_norm_every == 0
            loss = make_dpd_loss(
                config,
                pairs.denominators(steps[number]),
                _shard(trainer),
                teacher,
                with_gradient_norms=measured,
            )
            mine = rows_of_rank(steps[number], trainer.data_rank, trainer.data_size)
            batches = _batches(job, config, pairs, mine)
            teacher.prepare(batches)
            stats = trainer.train_step(batches, loss)
            if number == 0:
                require_fresh_policy(stats)
            history.append({"step": number + 1, "loss": stats.loss, "grad_norm": stats.grad_norm, **stats.metrics})
            job.progress((number + 1) / len(steps), f"step {number + 1}: {json.dumps(_brief(stats))}")
            points.after_step({"history": history}, more=number + 1 < len(steps))
    return history


def require_fresh_policy(stats: StepStats) -> None:
    """Refuse a first step whose DPO loss is not ln 2: policy and reference would not be the same model.

    Raises RuntimeError.
    """
    if abs(stats.metrics["dpo"] - math.log(2)) > FIRST_LOSS_TOLERANCE:
        raise RuntimeError(
            f"the first step's DPO loss is {stats.metrics['dpo']:.6f}, expected ln 2 = {math.log(2):.6f}: reference "
            "log-probabilities and policy disagree before any update. Delete the stage's scratch directory; if it "
            "stays, packing or precision differ between the two passes."
        )


def _brief(stats: StepStats) -> dict[str, float]:
    return {name: round(stats.metrics[name], 4) for name in ("dpo", "positive_kl", "negative_kl")}
