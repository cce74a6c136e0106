"""Token-level divergences between a teacher p and a student q over the whole vocabulary.

    forward_kl   sum_v p (log p - log q)                     dL/dz_j = q_j - p_j
    reverse_kl   sum_v q (log q - log p)                     dL/dz_j = q_j [(log q_j - log p_j) - L]
    jsd          b KL(p||m) + (1-b) KL(q||m), m = b p + (1-b) q      (GKD, arXiv 2306.13649)

One 64K sequence of fp32 logits at a vocabulary of 166144 is 43.6 GB, so nothing of that size is kept: the
custom function walks over the sequence in chunks, saves the logits it was given and one number per
position, and recomputes each chunk in the backward pass. A loop of chunks under ordinary autograd would
save nothing.

Shapes: B sequence, S position, V vocabulary, _tp local columns of this tensor-parallel rank.
"""

from typing import Any, Literal, NamedTuple

import torch

from nanbeige_core.distill.vocabulary import VocabularyShard

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]


class _Chunk(NamedTuple):
    """One chunk's local log-probabilities; padding columns hold zeros in place of minus infinity."""

    log_p: torch.Tensor
    log_q: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor


def token_divergence(
    student_BSV_tp: torch.Tensor,
    teacher_BSV_tp: torch.Tensor,
    shard: VocabularyShard,
    *,
    kind: DivergenceKind = "forward_kl",
    mixture: float = 0.5,
    temperature: float = 1.0,
    chunk: int = 1024,
) -> torch.Tensor:
    """Return the divergence at each position (B, S), in fp32.

    Both logits are in the layout of `shard`; the result is the same on every tensor-parallel rank. Forward:
    five all-reduces a chunk (two normalisers of two each, one of the value and inner product); backward:
    none. Gradients flow into the student only. `mixture` is b of the jsd.
    """
    return _TokenDivergence.apply(student_BSV_tp, teacher_BSV_tp, shard, kind, mixture, temperature, chunk)


class _TokenDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_BSV_tp: torch.Tensor,
        teacher_BSV_tp: torch.Tensor,
        shard: VocabularyShard,
        kind: DivergenceKind,
        mixture: float,
        temperature: float,
        chunk: int,
    ) -> torch.Tensor:
        values, inners, norms_p, norms_q = [], [], [], []
        for start in range(0, student_BSV_tp.shape[1], chunk):
            z_p = shard.prepare(teacher_BSV_tp[:, start : start + chunk], temperature)
            z_q = shard.prepare(student_BSV_tp[:, start : start + chunk], temperature)
            norm_p, norm_q = shard.log_normaliser(z_p), shard.log_normaliser(z_q)
            part = _distributions(z_p, z_q, norm_p, norm_q)
            both = torch.stack([_local_value(part, kind, mixture), _weighted_slope(part, kind, mixture).sum(-1)])
            value, inner = shard.sum(both)
            values.append(value)
            inners.append(inner)
            norms_p.append(norm_p)
            norms_q.append(norm_q)
        saved = (torch.cat(column, 1) for column in (inners, norms_p, norms_q))
        ctx.save_for_backward(student_BSV_tp, teacher_BSV_tp, *saved)
        ctx.settings = (shard, kind, mixture, temperature, chunk)
        return torch.cat(values, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        student_BSV_tp, teacher_BSV_tp, inner_BS, norm_p_BS, norm_q_BS = ctx.saved_tensors
        shard, kind, mixture, temperature, chunk = ctx.settings
        grad_BSV_tp = torch.empty_like(student_BSV_tp)
        for start in range(0, student_BSV_tp.shape[1], chunk):
            span = slice(start, start + chunk)
            z_p = shard.prepare(teacher_BSV_tp[:, span], temperature)
            z_q = shard.prepare(student_BSV_tp[:, span], temperature)
            part = _distributions(z_p, z_q, norm_p_BS[:, span], norm_q_BS[:, span])
            centred = _weighted_slope(part, kind, mixture) - part.q * inner_BS[:, span].unsqueeze(-1)
            grad_BSV_tp[:, span] = centred * (grad_outputs[0][:, span].unsqueeze(-1) / temperature)
        return grad_BSV_tp, None, None, None, None, None, None


def _distributions(z_p: torch.Tensor, z_q: torch.Tensor, norm_p_BS: torch.Tensor, norm_q_BS: torch.Tensor) -> _Chunk:
    log_p, log_q = z_p - norm_p_BS.unsqueeze(-1), z_q - norm_q_BS.unsqueeze(-1)
    p, q = log_p.exp(), log_q.exp()
    padding = torch.isinf(z_p)  # a real logit is finite; 0 * inf must not become nan
    return _Chunk(log_p.masked_fill(padding, 0.0), log_q.masked_fill(padding, 0.0), p, q)


def _log_mixture(part: _Chunk, mixture: float) -> torch.Tensor:
    weight = torch.tensor([mixture, 1 - mixture], dtype=part.p.dtype, device=part.p.device).log()
    return torch.logaddexp(part.log_p + weight[0], part.log_q + weight[1])


def _local_value(part: _Chunk, kind: DivergenceKind, mixture: float) -> torch.Tensor:
    """Return this shard's share of the divergence (B, S)."""
    if kind == "forward_kl":
        return (part.p * (part.log_p - part.log_q)).sum(-1)
    if kind == "reverse_kl":
        return (part.q * (part.log_q - part.log_p)).sum(-1)
    log_m = _log_mixture(part, mixture)
    from_p = (part.p * (part.log_p - log_m)).sum(-1)
    return mixture * from_p + (1 - mixture) * (part.q * (part.log_q - log_m)).sum(-1)


def _weighted_slope(part: _Chunk, kind: DivergenceKind, mixture: float) -> torch.Tensor:
    """Return q_j dL/dq_j up to a multiple of q_j; the gradient is this minus q_j times its sum.

    The product is formed here because p/q alone overflows where the student gives almost nothing.
    """
    if kind == "forward_kl":
        return -part.p
    if kind == "reverse_kl":
        return part.q * (part.log_q - part.log_p)
    return (1 - mixture) * part.q * (part.log_q - _log_mixture(part, mixture))
