"""The token-level divergence as autograd sees it, to hold its value and slope against other people's functions."""

from typing import Any

import torch
from torch import Tensor

from nanbeige_core.distill.divergence import DivergenceKind, Measure, Pull, token_divergence
from nanbeige_core.distill.vocabulary import VocabularyShard


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_CV: Tensor, teacher_CV: Tensor, shard: VocabularyShard, measure: Measure) -> Tensor:
        student_CV, teacher_CV = (shard.widen(side.clone()) for side in (student_CV, teacher_CV))
        normaliser_C = shard.log_normaliser(student_CV)
        pull = Pull(torch.ones_like(normaliser_C), torch.zeros_like(normaliser_C))
        value_C, slope_CV = token_divergence(student_CV, normaliser_C, teacher_CV, shard, measure, pull)
        assert slope_CV is not None
        ctx.save_for_backward(slope_CV)
        return value_C

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.saved_tensors[0] * grad_outputs[0].unsqueeze(-1), None, None, None


def divergence(
    student_BSV: Tensor,
    teacher_BSV: Tensor,
    shard: VocabularyShard,
    *,
    kind: DivergenceKind = "forward_kl",
    mixture: float = 0.5,
    temperature: float = 1.0,
) -> Tensor:
    student_CV, teacher_CV = student_BSV.flatten(0, -2), teacher_BSV.flatten(0, -2)
    value_C = _Divergence.apply(student_CV, teacher_CV, shard, Measure(kind, mixture, temperature))
    return value_C.view(student_BSV.shape[:-1])
