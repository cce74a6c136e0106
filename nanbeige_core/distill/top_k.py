"""Forward KL from a teacher known only by its k most likely tokens, with one bucket for the rest.

    L = sum_S p (log p - log q) + (1 - P_S) (log(1 - P_S) - log(1 - Q_S)),   P_S = sum_S p,  Q_S = sum_S q

The bucket makes it a real divergence: never negative, never above the full KL, equal to it when both tails
are proportional. Leaving it out ("truncated") can go negative; renormalising over S is blind to a student
whose mass lies elsewhere. Gradient, with r = (1-P)/(1-Q): q_j (P - r Q) for every j, plus -p_j + r q_j
inside S.

Shapes: B sequence, S position, V vocabulary, K kept tokens, _tp local columns of this tensor-parallel rank.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from nanbeige_core.distill.vocabulary import VocabularyShard

LARGEST_MASS = 1 - 1e-7
"""Bound on P_S and Q_S, so that log(1 - mass) stays finite when S holds everything."""


class TeacherTop(NamedTuple):
    """The k most likely tokens of a teacher at each position: global ids and fp32 log-probabilities."""

    ids_BSK: torch.Tensor
    log_p_BSK: torch.Tensor


def sharded_top_k(teacher_BSV_tp: torch.Tensor, shard: VocabularyShard, k: int) -> TeacherTop:
    """Return the teacher's k best tokens over the whole vocabulary, the same on every rank, without gradient.

    Collectives: the normaliser's two all-reduces and, with a split vocabulary, two all-gathers of (B, S, k).
    """
    z_BSV_tp = shard.prepare(teacher_BSV_tp.detach())
    norm_BS = shard.log_normaliser(z_BSV_tp)
    values_BSK, local_BSK = z_BSV_tp.topk(min(k, z_BSV_tp.shape[-1]), -1)
    ids_BSK = local_BSK + shard.offset(z_BSV_tp.shape[-1])
    if shard.is_split:
        values_BSK, ids_BSK = _gather(values_BSK, shard), _gather(ids_BSK, shard)
    best_BSK, place_BSK = values_BSK.topk(min(k, shard.vocab_size), -1)
    return TeacherTop(ids_BSK.gather(-1, place_BSK), best_BSK - norm_BS.unsqueeze(-1))


def top_k_tail_kl(
    student_BSV_tp: torch.Tensor, teacher: TeacherTop, shard: VocabularyShard, *, chunk: int = 1024
) -> torch.Tensor:
    """Return the tail-bucket forward KL at each position (B, S), in fp32.

    The teacher's columns are the same on every tensor-parallel rank. Forward: three all-reduces a chunk;
    backward: none. Keeps the student's logits and K numbers a position between the passes.
    """
    return _TopKTail.apply(student_BSV_tp, teacher.ids_BSK, teacher.log_p_BSK, shard, chunk)


class _TopKTail(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_BSV_tp: torch.Tensor,
        ids_BSK: torch.Tensor,
        log_p_BSK: torch.Tensor,
        shard: VocabularyShard,
        chunk: int,
    ) -> torch.Tensor:
        selected, norms = [], []
        for start in range(0, student_BSV_tp.shape[1], chunk):
            z = shard.prepare(student_BSV_tp[:, start : start + chunk])
            norm = shard.log_normaliser(z)
            column, owned = shard.own_columns(ids_BSK[:, start : start + chunk], z.shape[-1])
            local = (z.gather(-1, column) - norm.unsqueeze(-1)).masked_fill(~owned, 0.0)
            selected.append(shard.sum(local))
            norms.append(norm)
        log_q_BSK = torch.cat(selected, 1)
        ctx.save_for_backward(student_BSV_tp, ids_BSK, log_p_BSK, log_q_BSK, torch.cat(norms, 1))
        ctx.settings = (shard, chunk)
        p_BSK = log_p_BSK.exp()
        mass_p, mass_q = _mass(log_p_BSK), _mass(log_q_BSK)
        tail = (1 - mass_p) * (torch.log1p(-mass_p) - torch.log1p(-mass_q))
        return (p_BSK * (log_p_BSK - log_q_BSK)).sum(-1) + tail

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        student_BSV_tp, ids_BSK, log_p_BSK, log_q_BSK, norm_BS = ctx.saved_tensors
        shard, chunk = ctx.settings
        mass_p, mass_q = _mass(log_p_BSK), _mass(log_q_BSK)
        ratio_BS = (1 - mass_p) / (1 - mass_q)
        inside_BSK = ratio_BS.unsqueeze(-1) * log_q_BSK.exp() - log_p_BSK.exp()
        everywhere_BS = -inside_BSK.sum(-1)
        grad_BSV_tp = torch.empty_like(student_BSV_tp)
        for start in range(0, student_BSV_tp.shape[1], chunk):
            span = slice(start, start + chunk)
            z = shard.prepare(student_BSV_tp[:, span])
            grad = (z - norm_BS[:, span].unsqueeze(-1)).exp() * everywhere_BS[:, span].unsqueeze(-1)
            column, owned = shard.own_columns(ids_BSK[:, span], z.shape[-1])
            grad.scatter_add_(-1, column, inside_BSK[:, span].masked_fill(~owned, 0.0))
            grad_BSV_tp[:, span] = grad * grad_outputs[0][:, span].unsqueeze(-1)
        return grad_BSV_tp, None, None, None, None


def _mass(log_BSK: torch.Tensor) -> torch.Tensor:
    return log_BSK.exp().sum(-1).clamp(max=LARGEST_MASS)


def _gather(local_BSK: torch.Tensor, shard: VocabularyShard) -> torch.Tensor:
    parts = [torch.empty_like(local_BSK) for _ in range(dist.get_world_size(shard.group))]
    dist.all_gather(parts, local_BSK.contiguous(), group=shard.group)
    return torch.cat(parts, -1)
