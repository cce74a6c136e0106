"""Compare next-token distributions over two vocabularies, span by span.

A span's distribution is that of its first token, times the probability of the tokens that follow it in the span
(GOLD's merge by the chain rule), so both models speak of the same stretch of text. Then

    uld    sum_i |p_(i) - q_(i)| over both sorted from the most to the least probable: the Wasserstein distance where
           nothing is known of which token means which (Universal Logit Distillation, arXiv 2402.12030)
    gold   the divergence over tokens that both vocabularies hold, and uld over the rest, weighted by the share of the
           teacher's vocabulary that has a twin (General Online Logit Distillation, Hugging Face 2025)

Everything is in fp32 or better. Shapes: G span, V student vocabulary, U teacher vocabulary, M tokens held by both.
"""

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nanbeige_core.distill.divergence import DivergenceKind

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

SMALLEST = 1e-8
"""Floor of a probability whose logarithm is taken (TRL's generalized_jsd_loss uses the same)."""


class Twins(NamedTuple):
    """Tokens of the same text in both vocabularies, pairwise."""

    student_M: Tensor
    teacher_M: Tensor


def uld(q_GV: Tensor, p_GU: Tensor) -> Tensor:
    """Return the sorted L1 distance of each span (G); the shorter vocabulary is filled up with zeros."""
    width = max(q_GV.size(-1), p_GU.size(-1))
    q_sorted, p_sorted = (
        F.pad(part.sort(dim=-1, descending=True).values, (0, width - part.size(-1))) for part in (q_GV, p_GU)
    )
    return (q_sorted - p_sorted).abs().sum(-1)


def gold(q_GV: Tensor, p_GU: Tensor, twins: Twins, *, kind: DivergenceKind, mixture: float) -> Tensor:
    """Return the divergence over twins and the uld over the others, weighted by the teacher's share of twins (G).

    The masses over twins are not renormalised, as published; the divergence of a span may therefore be negative.
    """
    share = twins.teacher_M.numel() / p_GU.size(-1)
    matched_G = _divergence(q_GV[:, twins.student_M], p_GU[:, twins.teacher_M], kind, mixture)
    alone_V, alone_U = (_others(part.size(-1), held) for part, held in zip((q_GV, p_GU), twins, strict=True))
    if not len(alone_V) or not len(alone_U):
        return share * matched_G
    return share * matched_G + (1 - share) * uld(q_GV[:, alone_V], p_GU[:, alone_U])


def find_twins(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> Twins:
    """Pair the tokens that decode to the same text; a token that is no whole text by itself has no twin."""
    ours, theirs = _whole_texts(student), _whole_texts(teacher)
    both = [text for text in theirs if text in ours]
    return Twins(*(torch.tensor([side[text] for text in both], dtype=torch.long) for side in (ours, theirs)))


def _whole_texts(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Return {text: id}; the fallback byte of a character yields to the character's own token, which is in use."""
    found: dict[str, tuple[bool, int]] = {}
    for index in range(len(tokenizer)):
        text = str(tokenizer.decode([index], skip_special_tokens=False, clean_up_tokenization_spaces=False))
        place = (_BYTE.fullmatch(str(tokenizer.convert_ids_to_tokens(index))) is not None, index)
        if text and "\ufffd" not in text:
            found[text] = min(found.get(text, place), place)
    return {text: index for text, (_, index) in found.items()}


def _others(size: int, held_M: Tensor) -> Tensor:
    free = torch.ones(size, dtype=torch.bool, device=held_M.device)
    free[held_M] = False
    return free.nonzero().flatten()


def _divergence(q_GM: Tensor, p_GM: Tensor, kind: DivergenceKind, mixture: float) -> Tensor:
    log_q, log_p = q_GM.clamp_min(SMALLEST).log(), p_GM.clamp_min(SMALLEST).log()
    if kind == "forward_kl":
        return (p_GM * (log_p - log_q)).sum(-1)
    if kind == "reverse_kl":
        return (q_GM * (log_q - log_p)).sum(-1)
    log_m = (mixture * p_GM + (1 - mixture) * q_GM).clamp_min(SMALLEST).log()
    return mixture * (p_GM * (log_p - log_m)).sum(-1) + (1 - mixture) * (q_GM * (log_q - log_m)).sum(-1)
