"""The DPD loss as the trainer calls it: one walk over the supervised positions for all three terms.

L_dpo's slope with respect to a token's log-probability depends on its whole pair, so a first walk finds the
log-probabilities and normalisers; the second forms each chunk's logits once more and takes the three terms' gradient
together: the student's output layer runs twice, the teacher's once, and the gradient's two products once.

Shapes: B sequence, S position, T supervised positions in a row, C positions of a chunk, H hidden, V vocabulary,
P pair, _tp local columns of this tensor-parallel rank.
"""

import torch
from torch import Tensor

from nanbeige_core.distill.divergence import Divergence, Pull
from nanbeige_core.distill.label_scores import LabelScores, head_label_scores, label_scores
from nanbeige_core.distill.losses import (
    Denominators,
    DpdTerms,
    PairStatistics,
    Supervised,
    masked_mean,
    pair_statistics,
)
from nanbeige_core.distill.preference import dpo_loss
from nanbeige_core.distill.teaching import Lesson, Student, Teaching
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import ChunkPart, HiddenLoss, HiddenOutput, chunked_head
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
        self.scores: LabelScores | None = None
        self._weights = (config.dpo_weight, config.positive_weight, config.negative_weight)
        self.log_probs_T = torch.zeros_like(self.slope_T)
        self.token_terms = self.slope_T.new_zeros(2)
        self.squared_norms = self.slope_T.new_zeros(3)

    def run(self, hidden_TH: Tensor, weight_VH_tp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if torch.is_grad_enabled() and self.config.dpo_weight:
            self.scores = head_label_scores(hidden_TH, weight_VH_tp, self.rows.labels_T, self.lesson.spans, self.shard)
            self.slope_T = self._dpo_slope(self.scores.log_probs_T)
        token_level = chunked_head(hidden_TH, weight_VH_tp, self.lesson.spans, self._chunk)
        statistics, dpo = self._preference(self.log_probs_T)
        terms = DpdTerms(dpo, *self.token_terms)
        # the chunks' slopes hold all three terms; L_dpo is no sum over chunks, so its value comes after them
        return token_level + terms.weighted(self.config).dpo.detach(), self._metrics(terms, statistics)

    def _preference(self, log_probs_T: Tensor) -> tuple[PairStatistics, Tensor]:
        config = self.config
        statistics = pair_statistics(log_probs_T, self.rows, normalise_length=config.normalise_length)
        losses_P = dpo_loss(statistics.margin_P, beta=config.beta, label_smoothing=config.label_smoothing)
        return statistics, losses_P.sum() / max(1, self.denominators.pairs)

    def _dpo_slope(self, log_probs_T: Tensor) -> Tensor:
        """Return dL_dpo / d log-probability of each position (T)."""
        with torch.enable_grad():
            found_T = log_probs_T.detach().requires_grad_()
            _, dpo = self._preference(found_T)
        return torch.autograd.grad(dpo, found_T)[0]

    def _chunk(self, logits_CV_tp: Tensor, span: slice, wanted: bool) -> ChunkPart:
        wide_CV_tp, labels_C, side_C = self.shard.widen(logits_CV_tp), self.rows.labels_T[span], self.rows.side_T[span]
        scores = self.scores.at(span) if self.scores else label_scores(wide_CV_tp, labels_C, self.shard)
        student = Student(wide_CV_tp, scores.normaliser_T)
        if self.with_gradient_norms:
            self.squared_norms += self._squared_norms(student, span)
        value_C, slope_CV_tp = self._compare(student, span, self._weights if wanted else None)
        means = [
            masked_mean(value_C, side_C == 1, self.denominators.positive_tokens),
            masked_mean(value_C, side_C == -1, self.denominators.negative_tokens),
        ]
        self.log_probs_T[span] = scores.log_probs_T
        self.token_terms += torch.stack(means)
        return ChunkPart(self.config.positive_weight * means[0] + self.config.negative_weight * means[1], slope_CV_tp)

    def _compare(self, student: Student, span: slice, weights: tuple[float, float, float] | None) -> Divergence:
        """Return the divergence and, with weights of the three terms, the slope of their sum."""
        if weights is None:
            return self.lesson.compare(student, span, None)
        dpo, positive, negative = weights
        side_C, (_, positive_tokens, negative_tokens) = self.rows.side_T[span], self.denominators
        push_C = (dpo * self.slope_T[span]).to(student.normaliser_C.dtype)
        weight_C = torch.zeros_like(push_C)
        weight_C = weight_C.masked_fill(side_C == 1, positive / max(1, positive_tokens))
        weight_C = weight_C.masked_fill(side_C == -1, negative / max(1, negative_tokens))
        found = self.lesson.compare(student, span, Pull(weight_C, push_C))
        assert found.slope_CV_tp is not None, "a lesson was asked for a slope and gave none"
        column_C, here_C = self.shard.own_columns(self.rows.labels_T[span], found.slope_CV_tp.size(-1))
        found.slope_CV_tp.scatter_add_(-1, column_C.unsqueeze(-1), (push_C * here_C).unsqueeze(-1))
        return found

    def _squared_norms(self, student: Student, span: slice) -> Tensor:
        found: list[Tensor] = []
        for term, weight in enumerate(self._weights):
            alone = [0.0, 0.0, 0.0]
            alone[term] = weight
            kept = student._replace(logits_CV_tp=student.logits_CV_tp.clone())
            slope_CV_tp = self._compare(kept, span, (alone[0], alone[1], alone[2])).slope_CV_tp
            assert slope_CV_tp is not None
            found.append(slope_CV_tp.square().sum().to(self.squared_norms.dtype))
        return self.shard.sum(torch.stack(found))

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
