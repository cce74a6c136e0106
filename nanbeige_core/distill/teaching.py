"""Where the teacher's distributions come from: a local model, exact or cut to its best tokens, or a cache.

A teacher is asked once per micro-batch and then for one chunk of positions at a time, beside the student's logits of
the same positions, so that neither model's full logits ever exist.

Shapes: B sequence, S position, T supervised positions in a row, C positions of a chunk, H hidden, V vocabulary,
K kept tokens, _tp local columns of this tensor-parallel rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nanbeige_core.distill.divergence import Divergence, Measure, Pull, token_divergence
from nanbeige_core.distill.top_k import TeacherTop, sharded_top_k, top_k_tail_kl
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import ChunkLogits, HiddenOutput, chunk_spans
from nanbeige_core.recipe.configs.distill import DpdConfig

TOP_IDS, TOP_LOG_PROBS = "teacher_ids_BSK", "teacher_log_p_BSK"
"""Names under which a batch carries cached teacher tokens."""


class Student(NamedTuple):
    """The student's side of a chunk: logits that `VocabularyShard.widen` returned, and their log-normaliser."""

    logits_CV_tp: Tensor
    normaliser_C: Tensor


class Lesson(NamedTuple):
    """What the teacher has to say about one micro-batch.

    `spans` cut its T supervised positions; `compare(student, span, pull)` gives D at each of them (C) and the slope
    that `pull` asks for. It may overwrite the student's logits.
    """

    spans: list[slice]
    compare: Callable[[Student, slice, Pull | None], Divergence]


class Teaching(Protocol):
    """A source of lessons."""

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Do what must precede the student's passes over these batches; collective over pipeline ranks."""
        ...

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Prepare the micro-batch's supervised positions; collective over tensor-parallel ranks."""
        ...


class HiddenTeacher(Protocol):
    """A frozen model in the student's layout; `megatron.frozen.FrozenModel` satisfies it."""

    def hidden(self, batch: Batch) -> HiddenOutput:
        """Return hidden states and output matrix without gradient."""
        ...

    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """Let `hidden` answer for these batches; collective over pipeline ranks."""
        ...


@dataclass(frozen=True)
class LocalTeaching:
    """A teacher model in this process: exact, or its k best tokens and a tail bucket."""

    teacher: HiddenTeacher
    config: DpdConfig
    shard: VocabularyShard

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Run a teacher whose layers lie on several pipeline ranks: they cannot meet inside the student's pass."""
        self.teacher.read_ahead(batches)

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Run the teacher once; its logits are formed chunk by chunk beside the student's."""
        output = self.teacher.hidden(batch)
        hidden_TH = output.hidden_BSH[keep_BS]
        spans = chunk_spans(len(hidden_TH), self.config.divergence_chunk)
        teacher = ChunkLogits(hidden_TH, output.weight_VH_tp, spans)

        def compare(student: Student, span: slice, pull: Pull | None) -> Divergence:
            return self._exact(student, self.shard.widen(teacher(span)), pull)

        def cut(logits_1CV_tp: Tensor, span: slice) -> Tensor:
            top = sharded_top_k(teacher(span).unsqueeze(0), self.shard, self.config.teacher_top_k)
            return top_k_tail_kl(logits_1CV_tp, top, self.shard)[0]

        return Lesson(spans, differentiated(cut) if self.config.teacher_top_k else compare)

    def _exact(self, student: Student, teacher_CV_tp: Tensor, pull: Pull | None) -> Divergence:
        measure = Measure(self.config.divergence, self.config.mixture, self.config.temperature)
        # the gradient shrinks with 1/T^2, this keeps its size when the temperature is changed (Hinton et al. 2015)
        scale = self.config.temperature**2
        pull = pull and pull._replace(weight_C=pull.weight_C * scale)
        found = token_divergence(*student, teacher_CV_tp, self.shard, measure, pull)
        return found._replace(value_C=found.value_C * scale)


@dataclass(frozen=True)
class CachedTeaching:
    """The k best tokens of a teacher that is not here, carried by the batch (`teacher_cache`)."""

    config: DpdConfig
    shard: VocabularyShard

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Do nothing: the batches carry the lesson."""

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Take the supervised positions' cached tokens; no model runs."""
        ids_TK, log_p_TK = batch.extra[TOP_IDS][keep_BS], batch.extra[TOP_LOG_PROBS][keep_BS]

        def divergence(logits_1CV_tp: Tensor, span: slice) -> Tensor:
            top = TeacherTop(ids_TK[span].unsqueeze(0), log_p_TK[span].unsqueeze(0))
            return top_k_tail_kl(logits_1CV_tp, top, self.shard)[0]

        return Lesson(chunk_spans(len(ids_TK), self.config.divergence_chunk), differentiated(divergence))


def differentiated(
    divergence: Callable[[Tensor, slice], Tensor],
) -> Callable[[Student, slice, Pull | None], Divergence]:
    """Let a lesson compare by a divergence (logits_1CV_tp, span) -> D (C) that autograd differentiates."""

    def compare(student: Student, span: slice, pull: Pull | None) -> Divergence:
        if pull is None:
            return Divergence(divergence(student.logits_CV_tp.unsqueeze(0), span))
        with torch.enable_grad():
            logits_CV_tp = student.logits_CV_tp.detach().requires_grad_()
            value_C = divergence(logits_CV_tp.unsqueeze(0), span)
        (slope_CV_tp,) = torch.autograd.grad(value_C, logits_CV_tp, pull.weight_C.to(value_C.dtype))
        softmax_CV_tp = student.logits_CV_tp.sub_(student.normaliser_C[:, None]).exp_()
        return Divergence(value_C.detach(), slope_CV_tp.addcmul(softmax_CV_tp, pull.push_C[:, None], value=-1))

    return compare
