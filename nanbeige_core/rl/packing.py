"""Lay responses out densely as training batches: prompts carry no loss, and no row is padded to the window.

Shapes: B row, S position. `extra` of each batch: `gen_BS` log-probabilities of the engine, `advantage_BS`, and
`weight_BS`, the weight of each token in the global loss (0 outside responses).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.sft.packing import pack_best_fit


class TrainedResponse(NamedTuple):
    """One response with everything its loss needs."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    advantage: float
    weight: float

    @property
    def length(self) -> int:
        """Return prompt and response length together."""
        return len(self.prompt_ids) + len(self.token_ids)


Row = list[TrainedResponse]


def pack_rows(responses: Sequence[TrainedResponse], *, row_tokens: int) -> list[Row]:
    """Pack whole responses into rows of at most `row_tokens` tokens (more where one response is longer).

    Rows come fullest first, so that rows of one micro-batch are about equally wide.
    """
    if not responses:
        return []
    capacity = max(row_tokens, max(response.length for response in responses))
    bins = pack_best_fit([response.length for response in responses], capacity)
    rows = [[responses[index] for index in members] for members in bins]
    return sorted(rows, key=lambda row: -sum(response.length for response in row))


def make_batches(rows: Sequence[Row], count: int) -> list[Batch]:
    """Cut rows into exactly `count` batches: every data-parallel rank needs the same number in a step.

    Missing batches are filled with one row that carries no loss. A batch is as wide as its fullest row.
    """
    filler: Row = [TrainedResponse((0,), (0,), (0.0,), 0.0, 0.0)]
    cuts = [len(rows) * index // count for index in range(count + 1)]
    parts = [list(rows[start:end]) for start, end in zip(cuts, cuts[1:], strict=False)]
    return [_stack(part) if part else _stack([filler], trained=False) for part in parts]


def _stack(rows: list[Row], *, trained: bool = True) -> Batch:
    width = max(sum(response.length for response in row) for row in rows)
    tokens_BS = torch.zeros(len(rows), width, dtype=torch.long)
    labels_BS = torch.zeros(len(rows), width, dtype=torch.long)
    segment_ids_BS = torch.zeros(len(rows), width, dtype=torch.long)
    mask_BS, gen_BS, advantage_BS, weight_BS = (torch.zeros(len(rows), width) for _ in range(4))
    for index, row in enumerate(rows):
        start = 0
        for number, response in enumerate(row, start=1):
            end = start + response.length
            ids = torch.tensor(response.prompt_ids + response.token_ids)
            tokens_BS[index, start:end] = ids
            labels_BS[index, start : end - 1] = ids[1:]
            segment_ids_BS[index, start:end] = number
            # the logits at the prompt's last token predict the response's first
            place = slice(start + len(response.prompt_ids) - 1, end - 1)
            mask_BS[index, place] = float(trained)
            gen_BS[index, place] = torch.tensor(response.logprobs)
            advantage_BS[index, place] = response.advantage
            weight_BS[index, place] = response.weight
            start = end
    extra: dict[str, Tensor] = {"gen_BS": gen_BS, "advantage_BS": advantage_BS, "weight_BS": weight_BS}
    return Batch(tokens_BS, labels_BS, mask_BS, segment_ids_BS, extra)
