"""Vocabulary-parallel building blocks of the distillation losses.

Shapes: B sequence, S position, V vocabulary, _tp local columns of this tensor-parallel rank.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class VocabularyShard:
    """Say which columns of the vocabulary this rank holds, and who holds the others.

    Rank r of `group` holds columns r*width to (r+1)*width; columns at `vocab_size` and above are padding and
    take no part in any distribution. `group` None means that this process holds every column.
    """

    vocab_size: int
    group: dist.ProcessGroup | None = None

    @property
    def is_split(self) -> bool:
        """Tell whether other ranks hold columns too."""
        return self.group is not None and dist.get_world_size(self.group) > 1

    def offset(self, width: int) -> int:
        """Return the id of this rank's first column."""
        return 0 if self.group is None else dist.get_rank(self.group) * width

    def real_columns(self, width: int, device: torch.device) -> torch.Tensor:
        """Return which of this rank's `width` columns are real tokens (bool, V_tp)."""
        return torch.arange(width, device=device) + self.offset(width) < self.vocab_size

    def sum(self, partial: torch.Tensor) -> torch.Tensor:
        """Add every rank's partial in place: one all-reduce, outside autograd."""
        if self.is_split:
            dist.all_reduce(partial, op=dist.ReduceOp.SUM, group=self.group)
        return partial

    def prepare(self, logits_BSV_tp: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return a full-precision copy divided by `temperature`, with padding at minus infinity."""
        precision = torch.promote_types(logits_BSV_tp.dtype, torch.float32)
        scaled_BSV_tp = logits_BSV_tp.to(precision) / temperature
        real_V_tp = self.real_columns(logits_BSV_tp.shape[-1], logits_BSV_tp.device)
        return scaled_BSV_tp.masked_fill(~real_V_tp, -torch.inf)

    def log_normaliser(self, prepared_BSV_tp: torch.Tensor) -> torch.Tensor:
        """Return log sum exp over the whole vocabulary (B, S): two all-reduces, outside autograd."""
        highest_BS = prepared_BSV_tp.amax(-1)
        if self.is_split:
            dist.all_reduce(highest_BS, op=dist.ReduceOp.MAX, group=self.group)
        total_BS = (prepared_BSV_tp - highest_BS.unsqueeze(-1)).exp().sum(-1)
        return highest_BS + self.sum(total_BS).log()
