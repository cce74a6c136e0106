"""Lay out preference pairs in packed sequences: both responses of a pair always share one sequence.

A pair is two segments, chosen then rejected, each with its own copy of the prompt, so neither sees the other.
`extra` carries `side_BS` (1 on supervised targets of y+, -1 on those of y-, else 0) and `pair_BS` (the
pair's number inside the micro-batch).

Shapes: B sequence, S position.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.sft.chat import EncodedSample, EncodesText, encode_sample
from nanbeige_core.sft.packing import make_batches, pack_best_fit


class EncodedPair(NamedTuple):
    """Both conversations of one pair."""

    chosen: EncodedSample
    rejected: EncodedSample

    @property
    def tokens(self) -> int:
        """Return the room the pair takes in a window."""
        return len(self.chosen.ids) + len(self.rejected.ids)


class PackedPairs(NamedTuple):
    """Pairs that fit the window, and which of them share a sequence."""

    pairs: list[EncodedPair]
    kept: list[int]
    bins: list[list[int]]
    dropped: int


def encode_pair(tokenizer: EncodesText, prompt: str, chosen: str, rejected: str) -> EncodedPair:
    """Encode a prompt with either response; a response is the full assistant text, its think block included."""
    return EncodedPair(*(_encode(tokenizer, prompt, response) for response in (chosen, rejected)))


def pack_pairs(pairs: Sequence[EncodedPair], capacity: int) -> PackedPairs:
    """Pack whole pairs best-fit; pairs longer than the window are left out and counted."""
    kept = [index for index, pair in enumerate(pairs) if pair.tokens <= capacity]
    fitting = [pairs[index] for index in kept]
    return PackedPairs(
        fitting, kept, pack_best_fit([pair.tokens for pair in fitting], capacity), len(pairs) - len(kept)
    )


def make_pair_batches(
    pairs: Sequence[EncodedPair],
    bins: Sequence[Sequence[int]],
    *,
    sequence_length: int,
    micro_batch_size: int,
) -> list[Batch]:
    """Return micro-batches of packed pairs with `side_BS` and `pair_BS` in `extra`."""
    samples = [sample for pair in pairs for sample in pair]
    members = [[place for index in row for place in (2 * index, 2 * index + 1)] for row in bins]
    batches = make_batches(samples, members, sequence_length=sequence_length, micro_batch_size=micro_batch_size)
    for number, batch in enumerate(batches):
        rows = bins[number * micro_batch_size :][: len(batch.tokens_BS)]
        _mark_sides(batch, [len(row) for row in rows])
    return batches


def _mark_sides(batch: Batch, pairs_of_row: list[int]) -> None:
    assert batch.segment_ids_BS is not None
    place_BS = (batch.segment_ids_BS - 1).clamp(min=0)
    first_B = torch.tensor([sum(pairs_of_row[:row]) for row in range(len(pairs_of_row))])
    side_BS = torch.where(place_BS % 2 == 0, 1, -1)
    batch.extra["side_BS"] = side_BS * (batch.loss_mask_BS > 0)
    batch.extra["pair_BS"] = first_B.unsqueeze(-1) + place_BS // 2


def _encode(tokenizer: EncodesText, prompt: str, response: str) -> EncodedSample:
    # the response is taken as written, so a malformed think block is learned from as it was sampled
    message = {"role": "assistant", "content": response}
    return encode_sample(tokenizer, [{"role": "user", "content": prompt}, message])
