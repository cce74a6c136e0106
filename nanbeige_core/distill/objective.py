"""The DPD loss as the trainer calls it: one walk over the supervised positions for all three terms.

L_dpo's slope with respect to a token's log-probability depends on its whole pair, so a first walk finds the
log-probabilities; the second forms each chunk's logits once more and takes the three terms' gradient together.

Shapes: B sequence, S position, T supervised positions in a row, C positions of a chunk, H hidden, V vocabulary,
P pair, _tp local columns of this tensor-parallel rank.
"""

import torch
from torch import Tensor

from nanbeige_core.distill.losses import (
    Denominators,
    DpdTerms,
    PairStatistics,
    Supervised,
    masked_mean,
    pair_statistics,
)
from nanbeige_core.distill.preference import dpo_loss
from nanbeige_core.distill.teaching import Lesson, Teaching
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenLoss, HiddenOutput, chunked_head, head_log_probs
from nanbeige_core.megatron.vocab_parallel import vocab_parallel_log_probs
from nanbeige_core.recipe.configs.distill import DpdConfig


def make_dpd_loss(
    config: DpdConfig,
    denominators: Denominators,
    shard: VocabularyShard,
    teaching: Teaching,
    *,
    with_gradient_norms: bool = False,
) -> HiddenLoss:
    """Return the loss function of one step; its metrics are to be summed, like the loss.

    With `with_gradient_norms` the squared norm of each weighted term's gradient at the logits is added; micro-batches
    touch disjoint logits, so the sum's root is the norm over the whole global batch.
    """

    def loss(output: HiddenOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        rows = Supervised.of(batch)
        walk = _Walk(config, denominators, shard, rows, teaching.lesson(batch, rows.keep_BS), with_gradient_norms)
        return walk.run(output.hidden_BSH[rows.keep_BS], output.weight_VH_tp)

    return HiddenLoss(loss)


class _Walk:
    """One micro-batch's walk over its chunks, and what it notes on the way."""

    def __init__(
        self,
        config: DpdConfig,
        denominators: Denominators,
        shard: VocabularyShard,
        rows: Supervised,
        lesson: Lesson,
        with_gradient_norms: bool,
    ) -> None:
        self.config, self.denominators, self.shard, self.rows, self.lesson = config, denominators, shard, rows, lesson
        self.with_gradient_norms = with_gradient_norms and torch.is_grad_enabled()
        precision = torch.promote_types(rows.reference_T.dtype, torch.float32)
        self.slope_T = torch.zeros_like(rows.reference_T, dtype=precision)
        self.log_probs_T = torch.zeros_like(self.slope_T)
        self.token_terms = self.slope_T.new_zeros(2)
        self.squared_norms = self.slope_T.new_zeros(3)

    def run(self, hidden_TH: Tensor, weight_VH_tp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled() and self.config.dpo_weight:
            self.slope_T = self._dpo_slope(hidden_TH, weight_VH_tp)
        surrogate = chunked_head(hidden_TH, weight_VH_tp, self.lesson.spans, self._chunk)
        statistics, dpo = self._preference(self.log_probs_T)
        terms = DpdTerms(dpo, *self.token_terms)
        # the surrogate has the joint loss's gradient; its value is linear in the log-probabilities instead
        weighted = terms.weighted(self.config)
        value = weighted.dpo + weighted.positive + weighted.negative
        return surrogate + (value - surrogate).detach(), self._metrics(terms, statistics)

    def _preference(self, log_probs_T: Tensor) -> tuple[PairStatistics, Tensor]:
        config = self.config
        statistics = pair_statistics(log_probs_T, self.rows, normalise_length=config.normalise_length)
        losses_P = dpo_loss(statistics.margin_P, beta=config.beta, label_smoothing=config.label_smoothing)
        return statistics, losses_P.sum() / max(1, self.denominators.pairs)

    def _dpo_slope(self, hidden_TH: Tensor, weight_VH_tp: Tensor) -> Tensor:
        """Return dL_dpo / d log-probability of each position (T)."""
        spans, labels_T = self.lesson.spans, self.rows.labels_T
        found_T = head_log_probs(hidden_TH, weight_VH_tp, labels_T, spans, vocab_size=self.shard.vocab_size)
        with torch.enable_grad():
            _, dpo = self._preference(found_T.requires_grad_())
        return torch.autograd.grad(dpo, found_T)[0]

    def _chunk(self, logits_1CV_tp: Tensor, span: slice) -> Tensor:
        labels_1C, side_C = self.rows.labels_T[span].unsqueeze(0), self.rows.side_T[span]
        log_probs_C = vocab_parallel_log_probs(logits_1CV_tp, labels_1C, self.shard.vocab_size)[0]
        divergence_C = self.lesson.divergence(logits_1CV_tp, span)
        terms = DpdTerms(
            (self.slope_T[span] * log_probs_C).sum(),
            masked_mean(divergence_C, side_C == 1, self.denominators.positive_tokens),
            masked_mean(divergence_C, side_C == -1, self.denominators.negative_tokens),
        )
        self.log_probs_T[span] = log_probs_C.detach()
        self.token_terms += torch.stack(terms[1:]).detach()
        weighted = terms.weighted(self.config)
        if self.with_gradient_norms:
            self.squared_norms += self._squared_norms(weighted, logits_1CV_tp)
        return weighted.dpo + weighted.positive + weighted.negative

    def _squared_norms(self, weighted: DpdTerms, logits_1CV_tp: Tensor) -> Tensor:
        slopes = (torch.autograd.grad(term, logits_1CV_tp, retain_graph=True)[0] for term in weighted)
        return self.shard.sum(torch.stack([slope.float().square().sum() for slope in slopes]).to(self.slope_T.dtype))

    def _metrics(self, terms: DpdTerms, statistics: PairStatistics) -> dict[str, Tensor]:
        pairs = max(1, self.denominators.pairs)
        metrics = {
            "dpo": terms.dpo,
            "positive_kl": terms.positive,
            "negative_kl": terms.negative,
            "margin": statistics.margin_P.sum() / pairs,
            "accuracy": (statistics.margin_P > 0).float().sum() / pairs,
            "chosen_gain": statistics.chosen_gain_P.sum() / pairs,
            "rejected_gain": statistics.rejected_gain_P.sum() / pairs,
        }
        if self.with_gradient_norms:
            named = zip(terms._fields, self.squared_norms, strict=True)
            metrics |= {f"{name}_gradient_squared": squared for name, squared in named}
        return metrics
