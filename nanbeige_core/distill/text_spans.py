"""Align two tokenisations of the same response by the text they cover.

Two tokenizers cut the same text at different places. A span is the shortest stretch of text that both cut at both
ends: one or more student tokens beside one or more teacher tokens. (GOLD, Hugging Face 2025, aligns so; minimum-edit
alignment of token strings, as in FuseLLM, guesses where this one knows.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.sft.chat import Message, render, render_prompt


class Span(NamedTuple):
    """Tokens [student, student_end) of one tokenisation say the same text as [teacher, teacher_end) of the other."""

    student: int
    student_end: int
    teacher: int
    teacher_end: int


class OffsetTokens(NamedTuple):
    """A tokenised conversation: ids and the characters [start, end) each covers."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def tokenize_with_offsets(tokenizer: PreTrainedTokenizerFast, text: str) -> OffsetTokens:
    """Return ids without any added, and each token's characters."""
    encoded: Any = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return OffsetTokens(list(encoded["input_ids"]), [(int(a), int(b)) for a, b in encoded["offset_mapping"]])


def response_region(prompt: Sequence[Message], answer: Message) -> tuple[str, int, int]:
    """Return the rendered conversation, and where its last turn's words (end token included) begin and end."""
    begin = len(render_prompt(prompt))
    text = render([*prompt, answer])
    return text, begin, len(text) - 1


def align_spans(student: OffsetTokens, teacher: OffsetTokens, begin: int, end: int) -> list[Span]:
    """Return the spans inside characters [begin, end), in order; text before the first common cut is left out.

    A character that a tokenizer spreads over several tokens has no cut inside it.
    """
    ours, theirs = cuts(student.offsets), cuts(teacher.offsets)
    common = [place for place in sorted(ours.keys() & theirs.keys()) if begin <= place <= end]
    # position 0 foretells nothing: a token needs one before it
    return [
        Span(ours[left], ours[right], theirs[left], theirs[right])
        for left, right in zip(common, common[1:], strict=False)
        if ours[left] > 0 and theirs[left] > 0
    ]


def cuts(offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return {character: number of tokens before it} for every place where one token ends and the next begins."""
    found: dict[int, int] = {}
    furthest = 0
    for index, (start, stop) in enumerate(offsets):
        if start >= furthest:
            found[start] = index
        furthest = max(furthest, stop)
    found[furthest] = len(offsets)
    return found
