"""What a model gives its labels, from hidden states, a chunk of logits at a time and without gradient.

Shapes: T positions in a row, C positions of a chunk, H hidden, V vocabulary, _tp local columns of this tensor-parallel
rank.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.chunked_head import ChunkPart, chunked_head


class LabelScores(NamedTuple):
    """Log-probability of each label and log-normaliser of its logits, in fp32 or wider, equal on every rank (T)."""

    log_probs_T: Tensor
    normaliser_T: Tensor

    def at(self, span: slice) -> "LabelScores":
        """Return the scores of some positions."""
        return LabelScores(self.log_probs_T[span], self.normaliser_T[span])


def label_scores(wide_CV_tp: Tensor, labels_C: Tensor, shard: VocabularyShard) -> LabelScores:
    """Score the labels of logits that `shard.widen` returned: three all-reduces of [C], outside autograd."""
    normaliser_C = shard.log_normaliser(wide_CV_tp)
    column_C, here_C = shard.own_columns(labels_C, wide_CV_tp.size(-1))
    logit_C = shard.sum(wide_CV_tp.gather(-1, column_C.unsqueeze(-1))[:, 0].masked_fill(~here_C, 0.0))
    return LabelScores(logit_C - normaliser_C, normaliser_C)


@torch.no_grad()
def head_label_scores(
    hidden_TH: Tensor, weight_VH_tp: Tensor, labels_T: Tensor, spans: Sequence[slice], shard: VocabularyShard
) -> LabelScores:
    """Score the labels from hidden states and output matrix; collectives of each chunk's `label_scores`."""
    precision = torch.promote_types(hidden_TH.dtype, torch.float32)
    found = LabelScores(*(hidden_TH.new_zeros(len(labels_T), dtype=precision) for _ in LabelScores._fields))

    def keep(logits_CV_tp: Tensor, span: slice, wanted: bool) -> ChunkPart:
        del wanted
        scores = label_scores(shard.widen(logits_CV_tp), labels_T[span], shard)
        for kept_T, values_C in zip(found, scores, strict=True):
            kept_T[span] = values_C
        return ChunkPart(found.log_probs_T.new_zeros(()))

    chunked_head(hidden_TH, weight_VH_tp, spans, keep)
    return found
