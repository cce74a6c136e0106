"""The joint loss of dual-level preference distillation (report: L = L_dpo + L_pos + L_neg).

    L = w_d sum_pairs dpo / pairs
      + w_p sum_{t in y+} D(teacher || student) / tokens of y+
      + w_n sum_{t in y-} D(teacher || student) / tokens of y-

Each term has its own global denominator, so packing, micro-batches and ranks never reweight the terms. On
y- the student moves *toward* the teacher, in the bad states it reached itself; pushing away is L_dpo's
part.

Shapes: B sequence, S position, V vocabulary, P pair, _tp local columns of this tensor-parallel rank.
"""

from typing import NamedTuple

import torch

from nanbeige_core.distill.divergence import token_divergence
from nanbeige_core.distill.preference import PairLogProbs, dpo_loss, pair_log_probs, preference_margin
from nanbeige_core.distill.top_k import TeacherTop, top_k_tail_kl
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.recipe.configs.distill import DpdConfig

Teacher = torch.Tensor | TeacherTop
"""Exact logits in the student's layout, or the k best tokens."""


class Denominators(NamedTuple):
    """What each term is divided by, over all ranks and micro-batches of a step."""

    pairs: int
    positive_tokens: int
    negative_tokens: int


class DpdTerms(NamedTuple):
    """This micro-batch's contributions to the three global means, before their weights."""

    dpo: torch.Tensor
    positive: torch.Tensor
    negative: torch.Tensor

    def total(self, config: DpdConfig) -> torch.Tensor:
        """Return the weighted sum."""
        return (
            config.dpo_weight * self.dpo
            + config.positive_weight * self.positive
            + config.negative_weight * self.negative
        )


class PairStatistics(NamedTuple):
    """What the margin did, per pair of this micro-batch (P): nats of the policy beyond the reference."""

    margin_P: torch.Tensor
    chosen_gain_P: torch.Tensor
    rejected_gain_P: torch.Tensor


class DpdLoss(NamedTuple):
    """The three terms and the margins behind the first."""

    terms: DpdTerms
    statistics: PairStatistics


def count_denominators(batches: list[Batch]) -> Denominators:
    """Count pairs and supervised tokens on either side of a list of micro-batches."""
    pairs = sum(_pairs_in(batch) for batch in batches)
    positive = sum(int((batch.extra["side_BS"] == 1).sum()) for batch in batches)
    negative = sum(int((batch.extra["side_BS"] == -1).sum()) for batch in batches)
    return Denominators(pairs, positive, negative)


def dpd_loss(
    student_BSV_tp: torch.Tensor,
    log_probs_BS: torch.Tensor,
    teacher: Teacher,
    batch: Batch,
    *,
    config: DpdConfig,
    denominators: Denominators,
    shard: VocabularyShard,
) -> DpdLoss:
    """Return the three terms of one micro-batch; everything is computed in fp32 from one forward pass.

    `log_probs_BS` are the student's log-probabilities of the labels, with gradient; `batch.extra` holds
    `side_BS`, `pair_BS` and the frozen reference's `reference_BS`. Collectives: those of the divergence.
    """
    side_BS = batch.extra["side_BS"]
    statistics = _statistics(log_probs_BS, batch, normalise_length=config.normalise_length)
    losses_P = dpo_loss(statistics.margin_P, beta=config.beta, label_smoothing=config.label_smoothing)
    divergence_BS = _divergence(student_BSV_tp, teacher, config, shard)
    terms = DpdTerms(
        losses_P.sum() / max(1, denominators.pairs),
        _masked_sum(divergence_BS, side_BS == 1) / max(1, denominators.positive_tokens),
        _masked_sum(divergence_BS, side_BS == -1) / max(1, denominators.negative_tokens),
    )
    return DpdLoss(terms, statistics)


def _divergence(
    student_BSV_tp: torch.Tensor, teacher: Teacher, config: DpdConfig, shard: VocabularyShard
) -> torch.Tensor:
    if isinstance(teacher, TeacherTop):
        return top_k_tail_kl(student_BSV_tp, teacher, shard, chunk=config.divergence_chunk)
    value_BS = token_divergence(
        student_BSV_tp,
        teacher,
        shard,
        kind=config.divergence,
        mixture=config.mixture,
        temperature=config.temperature,
        chunk=config.divergence_chunk,
    )
    # the gradient shrinks with 1/T^2, this keeps its size when the temperature is changed (Hinton et al. 2015)
    return value_BS * config.temperature**2


def _statistics(log_probs_BS: torch.Tensor, batch: Batch, *, normalise_length: bool) -> PairStatistics:
    side_BS, pair_BS = batch.extra["side_BS"], batch.extra["pair_BS"]
    policy, reference = (
        pair_log_probs(values_BS, side_BS, pair_BS, _pairs_in(batch), normalise_length=normalise_length)
        for values_BS in (log_probs_BS, batch.extra["reference_BS"])
    )
    return PairStatistics(preference_margin(policy, reference), *_gains(policy, reference))


def _gains(policy: PairLogProbs, reference: PairLogProbs) -> tuple[torch.Tensor, torch.Tensor]:
    return policy.chosen_P - reference.chosen_P, policy.rejected_P - reference.rejected_P


def _masked_sum(values_BS: torch.Tensor, keep_BS: torch.Tensor) -> torch.Tensor:
    return values_BS.masked_fill(~keep_BS, 0.0).sum()


def _pairs_in(batch: Batch) -> int:
    used_BS = batch.extra["side_BS"] != 0
    return int(batch.extra["pair_BS"][used_BS].max()) + 1 if bool(used_BS.any()) else 0
