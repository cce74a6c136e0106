"""Where the teacher's distributions come from: a local model, exact or cut to its best tokens, or a cache.

A teacher is asked once per micro-batch and then for one chunk of positions at a time, beside the student's logits of
the same positions, so that neither model's full logits ever exist.

Shapes: B sequence, S position, T supervised positions in a row, C positions of a chunk, H hidden, V vocabulary,
K kept tokens, _tp local columns of this tensor-parallel rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanbeige_core.distill.divergence import token_divergence
from nanbeige_core.distill.top_k import TeacherTop, sharded_top_k, top_k_tail_kl
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput, chunk_spans
from nanbeige_core.recipe.configs.distill import DpdConfig

TOP_IDS, TOP_LOG_PROBS = "teacher_ids_BSK", "teacher_log_p_BSK"
"""Names under which a batch carries cached teacher tokens."""


class Lesson(NamedTuple):
    """What the teacher has to say about one micro-batch.

    `spans` cut its T supervised positions; `divergence(logits_1CV_tp, span)` gives D at each of them (C), with
    gradient into the student's logits.
    """

    spans: list[slice]
    divergence: Callable[[Tensor, slice], Tensor]


class Teaching(Protocol):
    """A source of lessons."""

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Prepare the micro-batch's supervised positions; collective over tensor-parallel ranks."""
        ...


class HiddenTeacher(Protocol):
    """A frozen model in the student's layout; `megatron.frozen.FrozenModel` satisfies it."""

    def hidden(self, batch: Batch) -> HiddenOutput:
        """Return hidden states and output matrix without gradient."""
        ...


@dataclass(frozen=True)
class LocalTeaching:
    """A teacher model in this process: exact, or its k best tokens and a tail bucket."""

    teacher: HiddenTeacher
    config: DpdConfig
    shard: VocabularyShard

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Run the teacher once; its logits are formed chunk by chunk beside the student's."""
        output = self.teacher.hidden(batch)
        hidden_TH, weight_VH_tp = output.hidden_BSH[keep_BS], output.weight_VH_tp

        def divergence(logits_1CV_tp: Tensor, span: slice) -> Tensor:
            with torch.no_grad():
                teacher_1CV_tp = (hidden_TH[span].to(weight_VH_tp.dtype) @ weight_VH_tp.t()).unsqueeze(0)
            if self.config.teacher_top_k:
                top = sharded_top_k(teacher_1CV_tp, self.shard, self.config.teacher_top_k)
                return top_k_tail_kl(logits_1CV_tp, top, self.shard)[0]
            return self._exact(logits_1CV_tp, teacher_1CV_tp)

        return Lesson(chunk_spans(len(hidden_TH), self.config.divergence_chunk), divergence)

    def _exact(self, logits_1CV_tp: Tensor, teacher_1CV_tp: Tensor) -> Tensor:
        value_1C = token_divergence(
            logits_1CV_tp,
            teacher_1CV_tp,
            self.shard,
            kind=self.config.divergence,
            mixture=self.config.mixture,
            temperature=self.config.temperature,
        )
        # the gradient shrinks with 1/T^2, this keeps its size when the temperature is changed (Hinton et al. 2015)
        return value_1C[0] * self.config.temperature**2


@dataclass(frozen=True)
class CachedTeaching:
    """The k best tokens of a teacher that is not here, carried by the batch (`teacher_cache`)."""

    config: DpdConfig
    shard: VocabularyShard

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Take the supervised positions' cached tokens; no model runs."""
        ids_TK, log_p_TK = batch.extra[TOP_IDS][keep_BS], batch.extra[TOP_LOG_PROBS][keep_BS]

        def divergence(logits_1CV_tp: Tensor, span: slice) -> Tensor:
            top = TeacherTop(ids_TK[span].unsqueeze(0), log_p_TK[span].unsqueeze(0))
            return top_k_tail_kl(logits_1CV_tp, top, self.shard)[0]

        return Lesson(chunk_spans(len(ids_TK), self.config.divergence_chunk), divergence)
