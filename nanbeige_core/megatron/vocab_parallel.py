"""Log-probabilities over a vocabulary that is split over tensor-parallel ranks.

Legend: B sequence, S position, V vocabulary, _tp = this rank's shard of V (all of it at tensor parallel 1).
The last ranks' padded columns (ids >= vocab_size) never take probability mass.
"""

import sys
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

CACHE_BYTES = 4 << 20
"""Logits that a CPU goes over several times before it takes the next."""

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


def cache_blocks(logits_CV_tp: Tensor) -> list[slice]:
    """Cut rows into blocks for several elementwise passes each: what a CPU's cache holds; on a device, all."""
    rows, columns = logits_CV_tp.shape
    fitting = CACHE_BYTES // (columns * logits_CV_tp.element_size()) if logits_CV_tp.is_cpu else rows
    return [slice(start, start + max(1, fitting)) for start in range(0, rows, max(1, fitting))]


def _scaled_exp(log_BSV_tp: Tensor, scale_BS1: Tensor) -> Tensor:
    log_CV_tp, scale_C1 = log_BSV_tp.flatten(0, -2), scale_BS1.flatten(0, -2)
    result_CV_tp = torch.empty_like(log_CV_tp)
    for rows in cache_blocks(log_CV_tp):
        torch.exp(log_CV_tp[rows], out=result_CV_tp[rows]).mul_(scale_C1[rows])
    return result_CV_tp.view(log_BSV_tp.shape)


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
            kernels: Any = torch
            grad_z = kernels._log_softmax_backward_data(grad_BSV_tp, logq_BSV_tp, -1, logq_BSV_tp.dtype)
            return grad_z.to(ctx.dtype), None
        total_BS1 = grad_BSV_tp.sum(-1, keepdim=True)
        dist.all_reduce(total_BS1, group=ctx.group)
        return (grad_BSV_tp - logq_BSV_tp.exp() * total_BS1).to(ctx.dtype), None


class _VocabParallelLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *args: Any) -> Tensor:
        logits_BSV_tp, labels_BS, vocab_size = cast(tuple[Tensor, Tensor, int], args)
        first, _, group = _shard(logits_BSV_tp, vocab_size)
        logq_BSV_tp = _log_softmax(logits_BSV_tp, vocab_size)
        local_BS = labels_BS - first
        mine_BS = (local_BS >= 0) & (local_BS < logq_BSV_tp.size(-1))
        local_BS = local_BS.where(mine_BS, 0)
        logp_BS = logq_BSV_tp.gather(-1, local_BS.unsqueeze(-1)).squeeze(-1).where(mine_BS, 0.0)
        if dist.get_world_size(group) > 1:
            dist.all_reduce(logp_BS, group=group)
        ctx.save_for_backward(logq_BSV_tp, local_BS, mine_BS)
        cast(Any, ctx).dtype = logits_BSV_tp.dtype
        return logp_BS

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        # d logp / d z_j = 1[j = label] - q_j: each shard needs only its own columns
        logq_BSV_tp, local_BS, mine_BS = ctx.saved_tensors
        grad_BS1 = cast(Tensor, grad_outputs[0]).unsqueeze(-1)
        grad_BSV_tp = _scaled_exp(logq_BSV_tp, -grad_BS1)
        grad_BSV_tp.scatter_add_(-1, local_BS.unsqueeze(-1), grad_BS1 * mine_BS.unsqueeze(-1))
        return grad_BSV_tp.to(ctx.dtype), None, None


class _ForwardSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, *args: Any) -> Tensor:
        del ctx
        total = cast(Tensor, args[0]).clone()
        dist.all_reduce(total, group=parallel.tensor_group())
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        del ctx
        return grad_outputs[0]


def mask_padding(logits_BSV_tp: Tensor, vocab_size: int) -> Tensor:
    """Return the logits with padded columns (ids >= vocab_size) at MASKED, so that no loss can give them mass."""
    _, real, _ = _shard(logits_BSV_tp, vocab_size)
    columns = logits_BSV_tp.size(-1)
    if real == columns:
        return logits_BSV_tp
    padded_V = torch.arange(columns, device=logits_BSV_tp.device) >= real
    return logits_BSV_tp.masked_fill(padded_V, MASKED)


def vocab_parallel_log_softmax(logits_BSV_tp: Tensor, vocab_size: int) -> Tensor:
    """Return log q as this rank's shard [B, S, V_tp], in fp32; padded columns are about MASKED.

    Forward: an all-reduce MAX and an all-reduce SUM of [B, S] over the tensor-parallel group. Backward: one all-reduce
    SUM of [B, S], because every shard's output depends on every shard's logits. No collective at tensor parallel 1.
    """
    return cast(Tensor, _VocabParallelLogSoftmax.apply(logits_BSV_tp, vocab_size))


def vocab_parallel_sum(partial: Tensor) -> Tensor:
    """Add shards' partial sums: forward all-reduce SUM, backward identity.

    Any other pairing gives the right loss and a wrong gradient.
    """
    if dist.get_world_size(parallel.tensor_group()) == 1:
        return partial
    return cast(Tensor, _ForwardSum.apply(partial))


def vocab_parallel_log_probs(logits_BSV_tp: Tensor, labels_BS: Tensor, vocab_size: int) -> Tensor:
    """Return log q(labels) as fp32 [B, S] with gradient, equal on every tensor-parallel rank.

    Forward: the collectives of `vocab_parallel_log_softmax` plus one all-reduce SUM of [B, S]; backward: none.
    Negative labels (ignored positions) are read as token 0 and must be masked by the caller.
    """
    arguments = (logits_BSV_tp, labels_BS.clamp(min=0), vocab_size)
    return cast(Tensor, _VocabParallelLogProbs.apply(*arguments))


def make_cross_entropy(denominator: float, *, vocab_size: int = sys.maxsize) -> LossFn:
    """Return the masked cross-entropy, summed over this micro-batch and divided by the global `denominator`.

    `denominator` is the number of trained tokens of the whole step, over all micro-batches and data-parallel ranks.
    `vocab_size` is needed only where the logits do not come from a Trainer, which masks padded columns itself.
    Metrics (to be summed): `tokens`, the trained tokens, and `nll`, their summed negative log-likelihood.
    """
    if denominator <= 0:
        raise ValueError(f"denominator is {denominator}: a step needs at least one trained token; drop empty batches")

    def cross_entropy(logits_BSV_tp: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logp_BS = vocab_parallel_log_probs(logits_BSV_tp, batch.labels_BS, vocab_size)
        nll = -(logp_BS * batch.loss_mask_BS).sum()
        return nll / denominator, {"nll": nll.detach(), "tokens": batch.loss_mask_BS.sum()}

    return cross_entropy
