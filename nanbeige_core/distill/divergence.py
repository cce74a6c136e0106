"""Token-level divergences between a teacher p and a student q over the whole vocabulary, and their slopes.

    forward_kl   sum_v p (log p - log q)                     dL/dz_j = q_j - p_j
    reverse_kl   sum_v q (log q - log p)                     dL/dz_j = q_j [(log q_j - log p_j) - L]
    jsd          b KL(p||m) + (1-b) KL(q||m), m = b p + (1-b) q      (GKD, arXiv 2306.13649)

Passes over [C, V] numbers are what costs here, so value and slope are found together, in the logits' own memory, and
a slope that another loss has on log-softmax (the DPO term: its -softmax part) is taken along.

Shapes: C positions of a chunk, V vocabulary, _tp local columns of this tensor-parallel rank.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.vocab_parallel import cache_blocks

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd"]


class Pull(NamedTuple):
    """What the gradient is of: sum_C weight * divergence - push * log-normaliser of the student's logits (C)."""

    weight_C: Tensor
    push_C: Tensor


class Divergence(NamedTuple):
    """The divergence at each position, and the gradient at the student's logits where a pull was given."""

    value_C: Tensor
    slope_CV_tp: Tensor | None = None


class Measure(NamedTuple):
    """Which divergence; `mixture` is b of the jsd, `temperature` divides both models' logits."""

    kind: DivergenceKind = "forward_kl"
    mixture: float = 0.5
    temperature: float = 1.0


def token_divergence(
    student_CV_tp: Tensor,
    normaliser_C: Tensor,
    teacher_CV_tp: Tensor,
    shard: VocabularyShard,
    measure: Measure,
    pull: Pull | None = None,
) -> Divergence:
    """Return the divergence of logits that `shard.widen` returned; both are overwritten, the student's by the slope.

    `normaliser_C` is the student's at temperature 1. The same values on every tensor-parallel rank. Collectives: the
    teacher's log-normaliser, another of the student at a temperature other than 1, and one all-reduce of the value.
    """
    if measure.temperature != 1.0:
        return _tempered(student_CV_tp, normaliser_C, teacher_CV_tp, shard, measure, pull)
    teacher_normaliser_C = shard.log_normaliser(teacher_CV_tp)
    compare = _forward_kl if measure.kind == "forward_kl" else _against_mixture
    value_C = torch.empty_like(normaliser_C)
    # a collective per block would cost more than the cache saves
    for rows in [slice(None)] if shard.is_split else cache_blocks(student_CV_tp):
        log_q_CV_tp = student_CV_tp[rows].sub_(normaliser_C[rows, None])
        log_p_CV_tp = teacher_CV_tp[rows].sub_(teacher_normaliser_C[rows, None])
        part = Pull(*(each_C[rows, None] for each_C in pull)) if pull else None
        value_C[rows] = compare(log_q_CV_tp, log_p_CV_tp, shard, measure, part)
    return Divergence(value_C, student_CV_tp if pull else None)


def _tempered(
    student_CV_tp: Tensor,
    normaliser_C: Tensor,
    teacher_CV_tp: Tensor,
    shard: VocabularyShard,
    measure: Measure,
    pull: Pull | None,
) -> Divergence:
    pushed_CV_tp = None
    if pull:
        pushed_CV_tp = (student_CV_tp - normaliser_C[:, None]).exp_().mul_(pull.push_C[:, None])
        pull = Pull(pull.weight_C / measure.temperature, torch.zeros_like(pull.push_C))
    student_CV_tp.div_(measure.temperature)
    found = token_divergence(
        student_CV_tp,
        shard.log_normaliser(student_CV_tp),
        teacher_CV_tp.div_(measure.temperature),
        shard,
        measure._replace(temperature=1.0),
        pull,
    )
    if found.slope_CV_tp is not None and pushed_CV_tp is not None:
        found.slope_CV_tp.sub_(pushed_CV_tp)
    return found


def _forward_kl(
    log_q_CV_tp: Tensor, log_p_CV_tp: Tensor, shard: VocabularyShard, measure: Measure, pull: Pull | None
) -> Tensor:
    del measure
    gap_CV_tp = log_p_CV_tp - log_q_CV_tp
    p_CV_tp = log_p_CV_tp.exp_()
    value_C = shard.sum(torch.linalg.vecdot(p_CV_tp, gap_CV_tp))
    if pull:
        weight_C1, push_C1 = pull
        log_q_CV_tp.exp_().mul_(weight_C1 - push_C1).addcmul_(p_CV_tp, weight_C1, value=-1)
    return value_C


def _against_mixture(
    log_q_CV_tp: Tensor, log_p_CV_tp: Tensor, shard: VocabularyShard, measure: Measure, pull: Pull | None
) -> Tensor:
    """Reverse KL and jsd: q_j times a bracket, less q_j times the bracket's mean under q.

    p/q itself is never formed: it overflows where the student gives almost nothing.
    """
    share = 1.0 if measure.kind == "reverse_kl" else 1 - measure.mixture
    other_CV_tp = log_p_CV_tp if measure.kind == "reverse_kl" else _log_mixture(log_q_CV_tp, log_p_CV_tp, share)
    bracket_CV_tp = (log_q_CV_tp - other_CV_tp).mul_(share)
    from_p_C = torch.zeros_like(log_q_CV_tp[:, 0])
    if measure.kind == "jsd":
        log_apart_CV_tp = log_p_CV_tp - other_CV_tp
        from_p_C = torch.linalg.vecdot(log_p_CV_tp.exp_(), log_apart_CV_tp).mul_(measure.mixture)
    q_CV_tp = log_q_CV_tp.exp_()
    from_q_C = torch.linalg.vecdot(q_CV_tp, bracket_CV_tp)
    from_q_C, value_C = shard.sum(torch.stack([from_q_C, from_q_C + from_p_C]))
    if pull:
        weight_C1, push_C1 = pull
        q_CV_tp.mul_(bracket_CV_tp.sub_(from_q_C.unsqueeze(-1)).mul_(weight_C1).sub_(push_C1))
    return value_C


def _log_mixture(log_q_CV_tp: Tensor, log_p_CV_tp: Tensor, share: float) -> Tensor:
    weight = torch.tensor([share, 1 - share], dtype=log_q_CV_tp.dtype, device=log_q_CV_tp.device).log()
    return torch.logaddexp(log_q_CV_tp + weight[0], log_p_CV_tp + weight[1])
