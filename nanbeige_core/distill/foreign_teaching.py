"""Lessons from a teacher with another tokenizer: aligned by text spans, scored once per span.

The teacher reads its own tokenisation of the same conversations, packed beside the student's row by row. A span is
scored at the student position that foretells its first token; the denominators count spans.

Shapes: B sequence, S student position, R teacher position, T and Q the supervised positions of student and teacher in
a row, C student positions of a chunk, G span, V and U vocabularies, _tp local columns of this tensor-parallel rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nanbeige_core.distill.pair_batches import EncodedPair
from nanbeige_core.distill.teaching import HiddenTeacher, Lesson, differentiated
from nanbeige_core.distill.text_spans import Span, align_spans, response_region, tokenize_with_offsets
from nanbeige_core.distill.unlike_vocabularies import Twins, gold, uld
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.recipe.configs.distill import DpdConfig

NO_SPAN = -1
_OF_TEACHER = "of_teacher/"
"""Before the names of extras that belong to the teacher's rows."""


class Aligned(NamedTuple):
    """One conversation as the teacher reads it, and its spans."""

    teacher_ids: list[int]
    spans: list[Span]


class AlignedPair(NamedTuple):
    """Both conversations of a pair."""

    chosen: Aligned
    rejected: Aligned


def align_pair(
    student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, prompt: str, chosen: str, rejected: str
) -> AlignedPair:
    """Tokenise both conversations for the teacher and align their responses."""
    return AlignedPair(*(_align(student, teacher, prompt, response) for response in (chosen, rejected)))


def _align(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast, prompt: str, response: str) -> Aligned:
    text, begin, end = response_region(
        [{"role": "user", "content": prompt}], {"role": "assistant", "content": response}
    )
    ours, theirs = (tokenize_with_offsets(tokenizer, text) for tokenizer in (student, teacher))
    spans = align_spans(ours, theirs, begin, end)
    if not spans:
        raise ValueError(
            f"student and teacher tokenizers cut {text[begin:end][:60]!r} at no common place: nothing of this response "
            "can be compared. Choose a teacher whose tokenizer knows the chat format's end token, or drop the pair."
        )
    return Aligned(theirs.ids, spans)


def attach_spans(
    batch: Batch, pairs: Sequence[EncodedPair], aligned: Sequence[AlignedPair], members: Sequence[Sequence[int]]
) -> None:
    """Give a packed batch its spans and the teacher's rows.

    `span_BS` and `teacher_span_BR` hold the span's number in its row at the positions that foretell its tokens;
    `scored_BS` marks each span's first.
    """
    rows = [_Row.lay_out(pairs, aligned, indices, batch.tokens_BS.size(1)) for indices in members]
    longest = max(1, *(len(row.teacher_ids) for row in rows))
    span_BS = torch.tensor([row.spans for row in rows])
    first_BS = torch.ones_like(span_BS, dtype=torch.bool)
    first_BS[:, 1:] = span_BS[:, 1:] != span_BS[:, :-1]
    batch.extra |= {
        "span_BS": span_BS,
        "scored_BS": (span_BS != NO_SPAN) & first_BS,
        "teacher_tokens_BR": _padded([row.teacher_ids for row in rows], longest, 0),
        "teacher_segments_BR": _padded([row.teacher_segments for row in rows], longest, 0),
        "teacher_labels_BR": _padded([row.teacher_labels for row in rows], longest, 0),
        "teacher_span_BR": _padded([row.teacher_spans for row in rows], longest, NO_SPAN),
    }


def _padded(rows: Sequence[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


class _Row(NamedTuple):
    spans: list[int]
    teacher_ids: list[int]
    teacher_segments: list[int]
    teacher_labels: list[int]
    teacher_spans: list[int]

    @classmethod
    def lay_out(
        cls, pairs: Sequence[EncodedPair], aligned: Sequence[AlignedPair], indices: Sequence[int], width: int
    ) -> "_Row":
        row = cls([NO_SPAN] * width, [], [], [], [])
        start = count = 0
        for index in indices:
            for sample, other in zip(pairs[index], aligned[index], strict=True):
                begin = len(row.teacher_ids)
                row.teacher_ids.extend(other.teacher_ids)
                row.teacher_segments.extend([1 + max(row.teacher_segments, default=0)] * len(other.teacher_ids))
                row.teacher_labels.extend([*other.teacher_ids[1:], 0])
                row.teacher_spans.extend([NO_SPAN] * len(other.teacher_ids))
                for span in other.spans:
                    for token in range(span.student, span.student_end):
                        row.spans[start + token - 1] = count
                    for token in range(span.teacher, span.teacher_end):
                        row.teacher_spans[begin + token - 1] = count
                    count += 1
                start += len(sample.ids)
        return row


def _teacher_rows(batch: Batch) -> Batch:
    """Return what the teacher reads beside a student's batch, with what was found for it in `prepare`."""
    found = {name.removeprefix(_OF_TEACHER): part for name, part in batch.extra.items() if name.startswith(_OF_TEACHER)}
    return Batch(
        batch.extra["teacher_tokens_BR"],
        batch.extra["teacher_labels_BR"],
        torch.ones_like(batch.extra["teacher_tokens_BR"], dtype=torch.float32),
        batch.extra["teacher_segments_BR"],
        found,
    )


@dataclass(frozen=True)
class ForeignTeaching:
    """A local teacher with another tokenizer."""

    teacher: HiddenTeacher
    config: DpdConfig
    shard: VocabularyShard
    teacher_shard: VocabularyShard
    twins: Twins

    def prepare(self, batches: Sequence[Batch]) -> None:
        """Run a teacher whose layers lie on several pipeline ranks on its own rows."""
        reads = [_teacher_rows(batch) for batch in batches]
        self.teacher.read_ahead(reads)
        for batch, read in zip(batches, reads, strict=True):
            batch.extra |= {_OF_TEACHER + name: found for name, found in read.extra.items()}

    def lesson(self, batch: Batch, keep_BS: Tensor) -> Lesson:
        """Run the teacher on its own rows; chunks end where spans end."""
        read = _teacher_rows(batch)
        taught_BR = batch.extra["teacher_span_BR"] != NO_SPAN
        output = self.teacher.hidden(read)
        numbers_T, numbers_Q = (
            _numbered(batch.extra["span_BS"], keep_BS),
            _numbered(batch.extra["teacher_span_BR"], taught_BR),
        )
        theirs = _Side(output.hidden_BSH[taught_BR], output.weight_VH_tp, read.labels_BS[taught_BR], numbers_Q)
        labels_T = batch.labels_BS[keep_BS]

        def divergence(logits_1CV_tp: Tensor, span: slice) -> Tensor:
            here_N = (numbers_T[span] != NO_SPAN).nonzero().flatten()
            z_CV = gather_columns(logits_1CV_tp[0], self.shard)
            result_C = 0.0 * z_CV.float().sum(-1)  # a position without a span still needs a graph
            if not len(here_N):
                return result_C
            numbers_N = numbers_T[span][here_N]
            present_G = numbers_N.unique()
            q_GV, first_G = _merge(z_CV[here_N] / self.config.temperature, labels_T[span][here_N], numbers_N, present_G)
            p_GU = theirs.merged(present_G, self.teacher_shard, self.config.temperature)
            value_G = self._compare(q_GV, p_GU)
            return result_C.to(value_G.dtype).index_put((here_N[first_G],), value_G)

        return Lesson(_span_chunks(numbers_T, self.config.divergence_chunk), differentiated(divergence))

    def _compare(self, q_GV: Tensor, p_GU: Tensor) -> Tensor:
        if self.config.cross_tokenizer == "uld":
            return uld(q_GV, p_GU)
        return gold(q_GV, p_GU, self.twins, kind=self.config.divergence, mixture=self.config.mixture)


class _Side(NamedTuple):
    hidden_QH: Tensor
    weight_UH_tp: Tensor
    labels_Q: Tensor
    numbers_Q: Tensor

    @torch.no_grad()
    def merged(self, present_G: Tensor, shard: VocabularyShard, temperature: float) -> Tensor:
        low, high = torch.searchsorted(
            self.numbers_Q, torch.stack([present_G[0], present_G[-1] + 1]).to(self.numbers_Q)
        )
        window = slice(int(low), int(high))
        z_QU = gather_columns(self.hidden_QH[window].to(self.weight_UH_tp.dtype) @ self.weight_UH_tp.t(), shard)
        return _merge(z_QU / temperature, self.labels_Q[window], self.numbers_Q[window], present_G)[0]


def _merge(z_NV: Tensor, labels_N: Tensor, numbers_N: Tensor, present_G: Tensor) -> tuple[Tensor, Tensor]:
    """Return each span's merged distribution (G, V) and the place of its first token among the N."""
    log_NV = z_NV.to(torch.promote_types(z_NV.dtype, torch.float32)).log_softmax(-1)
    first_G = torch.searchsorted(numbers_N, present_G)
    rest_N = torch.ones_like(numbers_N, dtype=torch.bool)
    rest_N[first_G] = False
    follow_N = log_NV.gather(-1, labels_N.unsqueeze(-1))[:, 0]
    place_N = torch.searchsorted(present_G, numbers_N)
    follow_G = follow_N.new_zeros(len(present_G)).index_add(0, place_N[rest_N], follow_N[rest_N])
    return (log_NV[first_G] + follow_G.unsqueeze(-1)).exp(), first_G


def _numbered(span_BS: Tensor, keep_BS: Tensor) -> Tensor:
    """Return the kept positions' span numbers, counted on from row to row."""
    before_B = (span_BS.amax(1) + 1).cumsum(0) - (span_BS.amax(1) + 1)
    return torch.where(span_BS == NO_SPAN, NO_SPAN, span_BS + before_B.unsqueeze(1))[keep_BS]


def _span_chunks(numbers_T: Tensor, chunk: int) -> list[slice]:
    """Cut the positions into chunks of about `chunk` that never part a span."""
    numbers: list[int] = numbers_T.tolist()
    spans: list[slice] = []
    start = 0
    for place in range(1, len(numbers) + 1):
        ends = place == len(numbers) or numbers[place] == NO_SPAN or numbers[place] != numbers[place - 1]
        if ends and (place - start >= chunk or place == len(numbers)):
            spans.append(slice(start, place))
            start = place
    return spans


def gather_columns(local_NV_tp: Tensor, shard: VocabularyShard) -> Tensor:
    """Return all real columns (N, V) on every rank: one all-gather; backward takes this rank's own, no collective.

    Every rank computes the same loss from the result, so its own columns' gradient is already whole.
    """
    if not shard.is_split:
        return local_NV_tp[:, : shard.vocab_size]
    return cast(Tensor, _GatherColumns.apply(local_NV_tp, shard))[:, : shard.vocab_size]


class _GatherColumns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local_NV_tp: Tensor, shard: VocabularyShard) -> Tensor:
        ctx.offset, ctx.width = shard.offset(local_NV_tp.size(-1)), local_NV_tp.size(-1)
        parts = [torch.empty_like(local_NV_tp) for _ in range(dist.get_world_size(shard.group))]
        dist.all_gather(parts, local_NV_tp.contiguous(), group=shard.group)
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0][:, ctx.offset : ctx.offset + ctx.width].contiguous(), None
