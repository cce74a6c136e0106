"""The joint loss of dual-level preference distillation (report: L = L_dpo + L_pos + L_neg).

    L = w_d sum_pairs dpo / pairs
      + w_p sum_{t in y+} D(teacher || student) / positions of y+
      + w_n sum_{t in y-} D(teacher || student) / positions of y-

Each term has its own global denominator, so packing, micro-batches and ranks never reweight the terms. On
y- the student moves *toward* the teacher, in the bad states it reached itself; pushing away is L_dpo's
part.

Shapes: B sequence, S position, T supervised positions in a row, P pair.
"""

from typing import NamedTuple

import torch

from nanbeige_core.distill.preference import PairLogProbs, pair_log_probs, preference_margin
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.recipe.configs.distill import DpdConfig


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

    def weighted(self, config: DpdConfig) -> "DpdTerms":
        """Return the terms times their weights."""
        weights = (config.dpo_weight, config.positive_weight, config.negative_weight)
        return DpdTerms(*(weight * term for weight, term in zip(weights, self, strict=True)))


class PairStatistics(NamedTuple):
    """What the margin did, per pair of this micro-batch (P): nats of the policy beyond the reference."""

    margin_P: torch.Tensor
    chosen_gain_P: torch.Tensor
    rejected_gain_P: torch.Tensor


class Supervised(NamedTuple):
    """The supervised positions of a micro-batch in one row: labels, side (1 or -1), pair number, reference."""

    keep_BS: torch.Tensor
    labels_T: torch.Tensor
    side_T: torch.Tensor
    pair_T: torch.Tensor
    reference_T: torch.Tensor
    pairs: int

    @classmethod
    def of(cls, batch: Batch) -> "Supervised":
        """Pick them out of a batch; the rest of it carries no loss."""
        keep_BS = batch.extra["side_BS"] != 0
        return cls(
            keep_BS=keep_BS,
            labels_T=batch.labels_BS[keep_BS],
            side_T=batch.extra["side_BS"][keep_BS],
            pair_T=batch.extra["pair_BS"][keep_BS],
            reference_T=batch.extra["reference_BS"][keep_BS],
            pairs=pairs_in(batch),
        )


def count_denominators(batches: list[Batch]) -> Denominators:
    """Count pairs and scored positions on either side of a list of micro-batches.

    Every supervised position is scored, unless the batch says which are (`scored_BS`: aligned spans).
    """
    pairs = sum(pairs_in(batch) for batch in batches)
    positive = sum(_scored(batch, 1) for batch in batches)
    negative = sum(_scored(batch, -1) for batch in batches)
    return Denominators(pairs, positive, negative)


def pair_statistics(log_probs_T: torch.Tensor, rows: Supervised, *, normalise_length: bool) -> PairStatistics:
    """Compare the policy's log-probabilities of both responses with the reference's, pair by pair."""
    policy, reference = (
        pair_log_probs(
            values_T.unsqueeze(0),
            rows.side_T.unsqueeze(0),
            rows.pair_T.unsqueeze(0),
            rows.pairs,
            normalise_length=normalise_length,
        )
        for values_T in (log_probs_T, rows.reference_T)
    )
    return PairStatistics(preference_margin(policy, reference), *_gains(policy, reference))


def masked_mean(values_T: torch.Tensor, keep_T: torch.Tensor, denominator: int) -> torch.Tensor:
    """Return the kept values' sum over a global denominator."""
    return values_T.masked_fill(~keep_T, 0.0).sum() / max(1, denominator)


def pairs_in(batch: Batch) -> int:
    """Return how many pairs a batch holds."""
    used_BS = batch.extra["side_BS"] != 0
    return int(batch.extra["pair_BS"][used_BS].max()) + 1 if bool(used_BS.any()) else 0


def _scored(batch: Batch, side: int) -> int:
    on_side_BS = batch.extra["side_BS"] == side
    return int((on_side_BS & batch.extra["scored_BS"] if "scored_BS" in batch.extra else on_side_BS).sum())


def _gains(policy: PairLogProbs, reference: PairLogProbs) -> tuple[torch.Tensor, torch.Tensor]:
    return policy.chosen_P - reference.chosen_P, policy.rejected_P - reference.rejected_P
