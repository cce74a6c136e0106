"""Vocabulary-parallel building blocks of the distillation losses.

Shapes: B sequence, S position, V vocabulary, _tp local columns of this tensor-parallel rank.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanbeige_core.megatron.vocab_parallel import MASKED, cache_blocks


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

    def own_columns(self, ids: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each id's column on this rank (any column where another rank holds it), and whether it is here."""
        local = ids - self.offset(width)
        return local.clamp(0, width - 1), (local >= 0) & (local < width)

    def prepare(self, logits_BSV_tp: torch.Tensor) -> torch.Tensor:
        """Return a full-precision copy with padding at minus infinity."""
        precision = torch.promote_types(logits_BSV_tp.dtype, torch.float32)
        real_V_tp = self.real_columns(logits_BSV_tp.shape[-1], logits_BSV_tp.device)
        return logits_BSV_tp.to(precision).masked_fill(~real_V_tp, -torch.inf)

    def widen(self, logits_CV_tp: torch.Tensor) -> torch.Tensor:
        """Return the logits in full precision with padding at MASKED; overwrites them where they are that precise."""
        wide_CV_tp = logits_CV_tp.to(torch.promote_types(logits_CV_tp.dtype, torch.float32))
        wide_CV_tp[:, max(0, self.vocab_size - self.offset(wide_CV_tp.size(-1))) :] = MASKED
        return wide_CV_tp

    def log_normaliser(self, wide_BSV_tp: torch.Tensor) -> torch.Tensor:
        """Return log sum exp over the whole vocabulary (B, S): two all-reduces, outside autograd."""
        wide_CV_tp = wide_BSV_tp.flatten(0, -2)
        highest_C = wide_CV_tp.amax(-1)
        if self.is_split:
            dist.all_reduce(highest_C, op=dist.ReduceOp.MAX, group=self.group)
        total_C = torch.empty_like(highest_C)
        for rows in cache_blocks(wide_CV_tp):
            total_C[rows] = (wide_CV_tp[rows] - highest_C[rows, None]).exp_().sum(-1)
        return self.sum(total_C).log_().add_(highest_C).view(wide_BSV_tp.shape[:-1])
