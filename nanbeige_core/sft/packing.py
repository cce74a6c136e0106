"""Best-fit-decreasing packing of samples into fixed windows, without letting them attend to one another.

Shapes: B sequence (one bin), S position.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.sft.chat import EncodedSample

PADDING_SEGMENT = 0
"""Segment id of padding; samples of a bin are numbered from 1."""

Overflow = Literal["drop", "truncate", "refuse"]


class Fitted(NamedTuple):
    """What is left after samples longer than the window were dealt with.

    `kept` holds the index in the input of each sample of `samples`.
    """

    samples: list[EncodedSample]
    kept: list[int]
    dropped: int
    truncated: int


def fit_window(samples: Sequence[EncodedSample], capacity: int, overflow: Overflow) -> Fitted:
    """Apply the overflow policy to samples longer than `capacity` tokens, and count what it did.

    `truncate` keeps the first `capacity` tokens and so loses the end token; a sample whose supervised part
    is cut away entirely is dropped. Raises ValueError for an overlong sample under `refuse`.
    """
    fitted: list[EncodedSample] = []
    kept: list[int] = []
    dropped = truncated = 0
    for index, sample in enumerate(samples):
        if len(sample.ids) > capacity and overflow == "refuse":
            raise ValueError(
                f"sample {index} has {len(sample.ids)} tokens, the window {capacity}: packing never splits a "
                "sample. Raise sequence_length or set overflow to drop or truncate."
            )
        cut = EncodedSample(sample.ids[:capacity], sample.mask[:capacity])
        too_long = len(sample.ids) > capacity
        if not any(cut.mask[1:]) or (too_long and overflow == "drop"):
            dropped += 1
            continue
        truncated += too_long
        fitted.append(cut)
        kept.append(index)
    return Fitted(fitted, kept, dropped, truncated)


def pack_best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Group items into bins of at most `capacity`, by best-fit decreasing; return each bin's item indices.

    O(n log n). Ties go to the earlier item and to the bin opened first, so the result is deterministic.
    Raises ValueError for an item longer than a bin.
    """
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (free room, bin), ascending: the first that fits is the tightest
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[item]
        if length > capacity:
            raise ValueError(f"item {item} has length {length}, bins hold {capacity}: apply fit_window first.")
        position = bisect_left(rooms, (length, 0))
        if position == len(rooms):
            bins.append([item])
            insort(rooms, (capacity - length, len(bins) - 1))
        else:
            room, target = rooms.pop(position)
            bins[target].append(item)
            insort(rooms, (room - length, target))
    return bins


def make_batches(
    samples: Sequence[EncodedSample],
    bins: Sequence[Sequence[int]],
    *,
    sequence_length: int,
    micro_batch_size: int,
) -> list[Batch]:
    """Lay out each bin as one sequence of `sequence_length` tokens and group the sequences into batches.

    `labels_BS[:, t]` is the token after t of the same sample and `loss_mask_BS` that token's flag; the last
    token of a sample has no target. Segments are numbered from 1 inside a sequence, padding is segment 0.
    """
    rows = [_lay_out([samples[index] for index in members], sequence_length) for members in bins]
    return [_stack(rows[at : at + micro_batch_size]) for at in range(0, len(rows), micro_batch_size)]


def supervised_tokens(batches: Sequence[Batch]) -> int:
    """Return how many positions carry loss: the denominator of a token mean."""
    return int(sum(batch.loss_mask_BS.sum().item() for batch in batches))


class _Row(NamedTuple):
    tokens_S: torch.Tensor
    labels_S: torch.Tensor
    loss_mask_S: torch.Tensor
    segment_ids_S: torch.Tensor


def _lay_out(members: Sequence[EncodedSample], sequence_length: int) -> _Row:
    tokens_S = torch.zeros(sequence_length, dtype=torch.long)
    labels_S = torch.zeros(sequence_length, dtype=torch.long)
    loss_mask_S = torch.zeros(sequence_length)
    segment_ids_S = torch.full((sequence_length,), PADDING_SEGMENT, dtype=torch.long)
    start = 0
    for number, sample in enumerate(members, start=1):
        ids, stop = torch.tensor(sample.ids), start + len(sample.ids)
        tokens_S[start:stop] = ids
        labels_S[start : stop - 1] = ids[1:]
        loss_mask_S[start : stop - 1] = torch.tensor(sample.mask[1:], dtype=torch.float32)
        segment_ids_S[start:stop] = number
        start = stop
    return _Row(tokens_S, labels_S, loss_mask_S, segment_ids_S)


def _stack(rows: Sequence[_Row]) -> Batch:
    tokens_BS, labels_BS, loss_mask_BS, segment_ids_BS = (torch.stack(column) for column in zip(*rows, strict=True))
    return Batch(
        tokens_BS=tokens_BS,
        labels_BS=labels_BS,
        loss_mask_BS=loss_mask_BS,
        segment_ids_BS=segment_ids_BS,
        extra={},
    )
