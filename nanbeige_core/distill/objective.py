"""The DPD loss as the trainer calls it: teacher forward, the three terms, and what to log about them.

Shapes: B sequence, S position, V vocabulary, _tp local columns of this tensor-parallel rank.
"""

from typing import Protocol

import torch

from nanbeige_core.distill.losses import Denominators, DpdLoss, DpdTerms, Teacher, dpd_loss
from nanbeige_core.distill.top_k import sharded_top_k
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.vocab_parallel import LossFn, vocab_parallel_log_probs
from nanbeige_core.recipe.configs.distill import DpdConfig


class TeacherLogits(Protocol):
    """A frozen model in the student's layout; `megatron.frozen.FrozenModel` satisfies it."""

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return logits_BSV_tp without gradient."""
        ...


def make_dpd_loss(
    config: DpdConfig,
    denominators: Denominators,
    shard: VocabularyShard,
    teacher: TeacherLogits,
    *,
    with_gradient_norms: bool = False,
) -> LossFn:
    """Return the loss function of one step; its metrics are to be summed, like the loss.

    With `with_gradient_norms` the squared norm of each weighted term's gradient at the logits is added; micro-batches
    touch disjoint logits, so the sum's root is the norm over the whole global batch.
    """

    def loss(logits_BSV_tp: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        log_probs_BS = vocab_parallel_log_probs(logits_BSV_tp, batch.labels_BS, shard.vocab_size)
        result = dpd_loss(
            logits_BSV_tp,
            log_probs_BS,
            _distribution(teacher.logits(batch), config, shard),
            batch,
            config=config,
            denominators=denominators,
            shard=shard,
        )
        metrics = _metrics(result, denominators)
        if with_gradient_norms and logits_BSV_tp.requires_grad:
            metrics |= _gradient_norms(result.terms, logits_BSV_tp, config, shard)
        return result.terms.total(config), metrics

    return loss


def _distribution(teacher_BSV_tp: torch.Tensor, config: DpdConfig, shard: VocabularyShard) -> Teacher:
    if config.teacher_top_k == 0:
        return teacher_BSV_tp
    return sharded_top_k(teacher_BSV_tp, shard, config.teacher_top_k)


def _metrics(result: DpdLoss, denominators: Denominators) -> dict[str, torch.Tensor]:
    terms, statistics = result
    pairs = max(1, denominators.pairs)
    return {
        "dpo": terms.dpo,
        "positive_kl": terms.positive,
        "negative_kl": terms.negative,
        "margin": statistics.margin_P.sum() / pairs,
        "accuracy": (statistics.margin_P > 0).float().sum() / pairs,
        "chosen_gain": statistics.chosen_gain_P.sum() / pairs,
        "rejected_gain": statistics.rejected_gain_P.sum() / pairs,
    }


def _gradient_norms(
    terms: DpdTerms, logits_BSV_tp: torch.Tensor, config: DpdConfig, shard: VocabularyShard
) -> dict[str, torch.Tensor]:
    weights = (config.dpo_weight, config.positive_weight, config.negative_weight)
    norms: dict[str, torch.Tensor] = {}
    for name, term, weight in zip(terms._fields, terms, weights, strict=True):
        (grad_BSV_tp,) = torch.autograd.grad(weight * term, logits_BSV_tp, retain_graph=True)
        norms[f"{name}_gradient_squared"] = shard.sum(grad_BSV_tp.float().square().sum())
    return norms
