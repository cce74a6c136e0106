"""Log-probabilities over a vocabulary that is split over tensor-parallel ranks.

Legend: B sequence, S position, V vocabulary, _tp = this rank's shard of V (all of it at tensor parallel 1).
The last ranks' padded columns (ids >= vocab_size) never take probability mass.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch

MASKED = -1e30
"""Log-probability given to padded columns: finite, so that 0 * MASKED stays 0."""

LossFn = Callable[[Tensor, Batch], tuple[Tensor, dict[str, Tensor]]]
"""(logits_BSV_tp, batch) -> (this micro-batch's contribution to the global loss, metrics to sum)."""


def _shard(logits_BSV_tp: Tensor, vocab_size: int) -> tuple[int, int, Any]:
    """Return (first id of this shard, number of its columns that are real, tensor-parallel group)."""
    group = parallel.tensor_group()
    columns = logits_BSV_tp.size(-1)
    first = dist.get_rank(group) * columns
    return first, max(min(vocab_size - first, columns), 0), group


def _log_softmax(logits_BSV_tp: Tensor, vocab_size: int) -> Tensor:
    """Return the fp32 log-softmax over all shards; two all-reduces of [B, S] at tensor parallel > 1."""
    _, real, group = _shard(logits_BSV_tp, vocab_size)
    z_BSV_tp = logits_BSV_tp if logits_BSV_tp.dtype == torch.float64 else logits_BSV_tp.float()
    if real < z_BSV_tp.size(-1):
        z_BSV_tp = z_BSV_tp.clone() if z_BSV_tp is logits_BSV_tp else z_BSV_tp
        z_BSV_tp[..., real:] = MASKED
    if dist.get_world_size(group) == 1:
        return torch.log_softmax(z_BSV_tp, dim=-1)
    highest_BS1 = z_BSV_tp.amax(-1, keepdim=True)
    dist.all_reduce(highest_BS1, op=dist.ReduceOp.MAX, group=group)
    z_BSV_tp = z_BSV_tp - highest_BS1
    sum_BS1 = z_BSV_tp.exp().sum(-1, keepdim=True)
    dist.all_reduce(sum_BS1, group=group)
    return z_BSV_tp - sum_BS1.log()


class _VocabParallelLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *args: Any) -> Tensor:
        logits_BSV_tp, vocab_size = cast(tuple[Tensor, int], args)
        logq_BSV_tp = _log_softmax(logits_BSV_tp, vocab_size)
        ctx.save_for_backward(logq_BSV_tp)
        cast(Any, ctx).group, cast(Any, ctx).dtype = parallel.tensor_group(), logits_BSV_tp.dtype
        return logq_BSV_tp

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        (logq_BSV_tp,) = ctx.saved_tensors
        grad_BSV_tp = cast(Tensor, grad_outputs[0])
        if dist.get_world_size(ctx.group) == 1:
            grad_z = cast(Any, torch)._log_softmax_backward_data(grad_BSV_tp, logq_BSV_tp, -1, logq_BSV_tp.dtype)
