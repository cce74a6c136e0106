"""Measure a model on held-out sequences, and the difference between two measurements of the same sequences.

Legend: B sequence, S position.
"""

import math
from typing import NamedTuple

import numpy as np

from nanbeige_core.contract import Gain
from nanbeige_core.launch.ranks import gather_objects
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.blend import Mixture, make_batch
from nanbeige_core.megatron.trainer import Trainer


class HeldOut(NamedTuple):
    """Held-out sequences as Batches of all ranks' rows, in order."""

    batches: list[Batch]
    sequences: int


def read_held_out(mixture: Mixture, *, sequence_length: int, sequences: int, rows: int) -> HeldOut:
    """Cut the validation set into at most `sequences` sequences without overlap, `rows` to a batch.

    Raises ValueError when the set is too short for two sequences.
    """
    stream = mixture.stream("validation", seed=0, shuffle=False)
    found = min(sequences, (stream.tokens_per_epoch - 1) // sequence_length)
    if found < 2:
        raise ValueError(
            f"the validation set has {stream.tokens_per_epoch} tokens, less than two sequences of {sequence_length}: "
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
