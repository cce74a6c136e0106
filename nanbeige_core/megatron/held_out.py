"""Measure a model on held-out sequences, and the difference between two measurements of the same sequences.

Legend: B sequence, S position.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from nanbeige_core.contract import Gain
from nanbeige_core.launch.ranks import gather_objects
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.blend import Mixture, make_batch
from nanbeige_core.megatron.trainer import Trainer

BOTH_TIERS, BETTER_HALF = "validation_loss", "validation_loss_hq"
"""Measures of a phase: over held-out documents of both tiers, and of the better half alone."""


class HeldOut(NamedTuple):
    """Held-out sequences as Batches of all ranks' rows, in order."""

    batches: list[Batch]
    sequences: int


def read_measures(mixture: Mixture, *, sequence_length: int, sequences: int, rows: int) -> dict[str, HeldOut]:
    """Return the sequences behind each measure of a phase.

    Those of the better half are left out where there are less than two, or where the mixture was made before they were
    set aside. Raises ValueError when there are less than two of both tiers.
    """
    sets = {BOTH_TIERS: "validation"}
    better: int = mixture.content.get("validation_hq", {"tokens": 0})["tokens"]
    if better > 2 * sequence_length:
        sets[BETTER_HALF] = "validation-hq"
    return {
        measure: read_held_out(mixture, name, sequence_length=sequence_length, sequences=sequences, rows=rows)
        for measure, name in sets.items()
    }


def read_held_out(
    mixture: Mixture, name: str = "validation", *, sequence_length: int, sequences: int, rows: int
) -> HeldOut:
    """Cut a held-out set into at most `sequences` sequences without overlap, `rows` to a batch.

    Raises ValueError when the set is too short for two sequences.
    """
    stream = mixture.stream(name, seed=0, shuffle=False)
    found = min(sequences, (stream.tokens_per_epoch - 1) // sequence_length)
    if found < 2:
        raise ValueError(
            f"the {name} set has {stream.tokens_per_epoch} tokens, less than two sequences of {sequence_length}: "
            "hold out more documents in the mixture stage."
        )
    samples = [stream.read(number * sequence_length, sequence_length + 1) for number in range(found)]
    batches = [make_batch(samples[at : at + rows], end_of_document=None) for at in range(0, found, rows)]
    return HeldOut(batches, found)


def measure_held_out(trainer: Trainer, held_out: HeldOut) -> list[float]:
    """Return the mean loss per token (nats) of each held-out sequence, in order, on every rank; collective."""
    numbers = range(trainer.data_rank, len(held_out.batches), trainer.data_size)
    mine = [held_out.batches[number] for number in numbers]
    found = trainer.log_probs(mine) if mine else []
    losses = {number: (-logp_BS.mean(1)).tolist() for number, logp_BS in zip(numbers, found, strict=True)}
    merged: dict[int, list[float]] = {}
    for part in gather_objects(losses):
        merged |= part
    return [loss for number in sorted(merged) for loss in merged[number]]


def compare_losses(before: list[float], after: list[float]) -> Gain:
    """Return the gain in mean validation loss, with a 95 % interval of the paired difference per sequence."""
    if len(before) != len(after):
        raise ValueError(
            f"{len(before)} losses before, {len(after)} after: a paired comparison needs the same sequences"
        )
    difference = np.array(after) - np.array(before)
    half = 1.96 * float(difference.std(ddof=1)) / math.sqrt(len(difference))
    mean = float(difference.mean())
    return Gain(
        metric="validation loss",
        before=float(np.mean(before)),
        after=float(np.mean(after)),
        n=len(after),
        low=mean - half,
        high=mean + half,
        higher_is_better=False,
    )


def number_sequences(losses: list[float]) -> dict[str, float]:
    """Return the losses under the names by which another model's of the same sequences are found."""
    return {f"sequence-{number}": loss for number, loss in enumerate(losses)}


def gain_table(gains: dict[str, Gain]) -> list[dict[str, Any]]:
    """Return a row for each measure of a phase."""
    return [
        {
            "documents": {BOTH_TIERS: "both tiers", BETTER_HALF: "better half"}[measure],
            "sequences": gain.n,
            "before": gain.before,
            "after": gain.after,
            "95 % interval of the difference": f"{gain.low:+.3f} to {gain.high:+.3f}",
        }
        for measure, gain in gains.items()
    ]
