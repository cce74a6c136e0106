"""What one micro-batch is.

Legend: B sequence, S position.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


def _no_tensors() -> dict[str, Tensor]:
    return {}


@dataclass
class Batch:
    """One micro-batch of one data-parallel rank.

    `labels_BS[:, t]` is the token that the logits at position t predict: the maker of the batch has shifted already.
    `segment_ids_BS` marks packed samples: a position attends only, causally, to neighbours with the same id
    (None means plain causal attention over the row). `extra` holds any tensors whose first dimension is B.
    """

    tokens_BS: Tensor
    labels_BS: Tensor
    loss_mask_BS: Tensor
    segment_ids_BS: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=_no_tensors)

    def __post_init__(self) -> None:
        """Refuse tensors of unequal shape, which would train silently on the wrong targets."""
        shape = self.tokens_BS.shape
        for name, tensor in (
            ("labels_BS", self.labels_BS),
            ("loss_mask_BS", self.loss_mask_BS),
            ("segment_ids_BS", self.segment_ids_BS),
        ):
            if tensor is not None and tensor.shape != shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, tokens_BS has {tuple(shape)}: they must be equal"
                )

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device` (itself when it is there already)."""
        if self.tokens_BS.device == device:
            return self
        return Batch(
            tokens_BS=self.tokens_BS.to(device),
            labels_BS=self.labels_BS.to(device),
            loss_mask_BS=self.loss_mask_BS.to(device),
            segment_ids_BS=None if self.segment_ids_BS is None else self.segment_ids_BS.to(device),
            extra={name: tensor.to(device) for name, tensor in self.extra.items()},
        )


class Segments(NamedTuple):
    """Packed samples of a micro-batch as runs of tokens in row-major order."""

    lengths: list[int]
    starts: list[int]


def find_segments(segment_ids_BS: Tensor) -> Segments:
    """Cut the flattened batch wherever the segment id changes or a row begins."""
    rows, width = segment_ids_BS.shape
    begins_BS = torch.ones_like(segment_ids_BS, dtype=torch.bool)
    begins_BS[:, 1:] = segment_ids_BS[:, 1:] != segment_ids_BS[:, :-1]
    starts: list[int] = [*begins_BS.flatten().nonzero().flatten().tolist(), rows * width]
    return Segments(lengths=[end - start for start, end in zip(starts, starts[1:], strict=False)], starts=starts)


def whole_rows(rows: int, width: int) -> Segments:
    """Return each row of a micro-batch as one segment."""
    return Segments(lengths=[width] * rows, starts=list(range(0, rows * width + 1, width)))
