"""Offline stand-ins for an annotator: one cheap measure of the text for each candidate dimension, higher is better.

A measure only orders documents: it is ranked among clean documents of its language before it becomes a grade.
"""

import re
import zlib
from collections.abc import Callable

import numpy as np

from nanbeige_core.data.annotators import (
    CHECKABLE,
    CONTENT_MEASURES,
    DEBRIS,
    FURNITURE,
    MARKUP,
    SENTENCE_END,
    distinct_line_share,
    rate,
)
from nanbeige_core.data.language import cjk_ratio

CHARACTERS = 2000
"""What a measure reads of a document."""

Measure = Callable[[str, float], float]
"""(text, bits per byte under the character model of the pool) -> value."""

UNIT = re.compile(r"[\u3400-\u9fff]|[A-Za-z_]+")
SENTENCE = re.compile(r"[^.!?。！？\n]+")
EMPHATIC = re.compile(r"!|！|\b[A-Z]{5,}\b")
OPEN, CLOSE = "([{（【《「", ")]}）】》」"


def _matches(pattern: str) -> Measure:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text, bits: rate(compiled, text)


def _without(pattern: str) -> Measure:
    compiled = re.compile(pattern, re.MULTILINE)
    return lambda text, bits: -rate(compiled, text)


def _units(text: str) -> list[str]:
    return UNIT.findall(text.lower())


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def distinct_unit_share(text: str) -> float:
    """Return the share of distinct words (characters in Chinese) among the first 200."""
    units = _units(text)[:200]
    return len(set(units)) / max(1, len(units))


def sentence_length(text: str) -> float:
    """Return the mean number of words (characters in Chinese) of a sentence."""
    return _mean([float(len(_units(sentence))) for sentence in SENTENCE.findall(text) if sentence.strip()])


def bracket_balance(text: str) -> float:
    """Return the share of brackets that are closed in order, 1 without any."""
    stack: list[int] = []
    closed = seen = 0
    for character in text:
        if character in OPEN:
            stack.append(OPEN.index(character))
            seen += 1
        elif character in CLOSE:
            seen += 1
            if stack and stack[-1] == CLOSE.index(character):
                stack.pop()
                closed += 2
    return closed / seen if seen else 1.0


def second_half_novelty(text: str) -> float:
    """Return how much of the second half a compressor that knows the first half still has to write."""
    raw = text.encode("utf-8", errors="replace")
    half = len(raw) // 2
    return (len(zlib.compress(raw, 6)) - len(zlib.compress(raw[:half], 6))) / max(1, len(raw) - half)


def good_line_share(text: str) -> float:
    """Return the share of lines that are neither scraps nor endless."""
    lines = [line for line in text.split("\n") if line.strip()]
    return sum(15 <= len(line) <= 400 for line in lines) / max(1, len(lines))


def sentence_start_share(text: str) -> float:
    """Return the share of sentences that begin with a capital, a digit, or a letter without case."""
    starts = [match.group().strip()[:1] for match in SENTENCE.finditer(text)]
    starts = [start for start in starts if start]
    return sum(not start.islower() for start in starts) / max(1, len(starts))


def long_word_share(text: str) -> float:
    """Return the share of words of more than 24 letters."""
    words = re.findall(r"[^\s\u3000-\u9fff]+", text)
    return sum(len(word) > 24 for word in words) / max(1, len(words))


def mean_word_length(text: str) -> float:
    """Return the mean length of words of Latin letters, 2 where there is none."""
    words = re.findall(r"[A-Za-z]+", text)
    return _mean([float(len(word)) for word in words]) if words else 2.0


MEASURES: dict[str, Measure] = {
    **CONTENT_MEASURES,
    "concreteness": lambda text, bits: rate(CHECKABLE, text) + rate(re.compile(r"(?<=[a-z,] )[A-Z][a-z]+|《"), text),
    "evidence_support": _matches(r"https?://|\[\d+\]|\b(?:according to|et al|doi|cf\.|see)\b|根据|参考|引用|据"),
    "definition_quality": _matches(
        r"\b(?:is an?|are the|means|refers to|is defined|is called|denotes)\b|是指|称为|定义|表示|即"
    ),
    "example_richness": _matches(r"\b(?:[Ee]xamples?|e\.g\.|for instance|such as)\b|>>>|例如|比如|示例|如下"),
    "procedural_clarity": _matches(
        r"^\s*(?:\d+[.)、]|[-*•])\s|\b(?:first|then|next|finally|step)\b|首先|然后|接着|最后|步骤"
    ),
    "mathematical_rigour": _matches(
        r"\b(?:theorem|lemma|proof|equation|matrix|integer|polynomial|sum|derive)\b|[=≤≥≠∑∫√^]|定理|公式|方程|矩阵"
    ),
    "program_structure": _matches(
        r"^\s*(?:def|class|import|from|return|raise|async|@)\b|\"\"\"|^\s*(?:public|static)\b"
    ),
    "causal_explanation": _matches(
        r"\b(?:because|therefore|thus|hence|since|due to|so that|causes?|results? in)\b|因为|所以|因此|由于|导致|从而"
    ),
    "comparison_depth": _matches(
        r"\b(?:than|whereas|versus|unlike|instead|rather|compared|better|faster|both)\b|相比|不同|而不是|更|比较"
    ),
    "question_answering": _matches(
        r"[?？]|\b(?:how|what|why|which|when) (?:do|does|is|are|to|can)\b|如何|什么|为何|怎样"
    ),
    "vocabulary_richness": lambda text, bits: distinct_unit_share(text),
    "vocabulary_level": lambda text, bits: mean_word_length(text),
    "sentence_complexity": lambda text, bits: min(60.0, sentence_length(text)),
    "abstraction": _matches(r"\b\w+(?:tion|ness|ity|ism|ment|ance|ence)s?\b|[性化度论法义]"),
    "narrative_flow": _matches(r"\b(?:he|she|they|was|were|had|said|after|before|once)\b|他|她|曾|后来|于是|时候|年"),
    "objectivity": _without(
        r"\b(?:I|my|we|our|best|great|amazing|awesome|terrible|love|hate|wonderful)\b|我|最好|非常|极其|讨厌|喜欢"
    ),
    "tone_neutrality": lambda text, bits: -rate(EMPHATIC, text),
    "epistemic_care": _matches(
        r"\b(?:may|might|could|possibly|usually|often|typically|probably|roughly|about|assume)\b|可能|也许|通常|一般|大约"
    ),
    "linguistic_surprise": lambda text, bits: bits,
    "cultural_value": _matches(r"《|》|--|\b(?:poem|novel|history|century|art|music)\b|诗|词|曰|兮|史|文化|春|月|山"),
    "instruction_density": _matches(
        r"\b(?:[Cc]lick|[Ss]elect|[Cc]hoose|[Ee]nter|[Uu]se|[Ss]et|[Oo]pen|[Pp]ress|[Tt]ype|[Rr]un|[Ii]nstall)\b"
        r"|请|选择|点击|打开|输入|使用|设置|按"
    ),
    "caveats": _matches(
        r"\b(?:[Nn]ote|[Ww]arning|[Cc]aution|[Hh]owever|but|except|unless|only if|must not)\b"
        r"|注意|警告|但|除非|不能|必须"
    ),
    "cross_reference": _matches(r"\b(?:[Ss]ee also|[Ss]ee|refer to|section|chapter|\w+\(\d\))\b|参见|参阅|请参|章|节"),
    "entity_density": _matches(r"(?<=[a-z,] )[A-Z][A-Za-z]+|《[^》]+》|[“「][^”」]{2,12}[”」]"),
    "quantitative_content": _matches(r"\d+(?:\.\d+)?"),
    "temporal_grounding": _matches(
        r"\b(?:1[5-9]|20)\d\d\b|\d+月|\d+年|\b(?:January|February|March|April|May|June|July|August|September|October"
        r"|November|December)\b"
    ),
    "self_containedness": _without(
        r"\b(?:above|below|previous|following|aforementioned|this (?:section|chapter|page))\b"
        r"|上述|如上|下面|本章|本节|上文"
    ),
    "audience_fit": lambda text, bits: -(0.4 * min(60.0, sentence_length(text)) + 3.0 * mean_word_length(text)),
    "novelty_of_parts": lambda text, bits: second_half_novelty(text),
    "depth_of_detail": lambda text, bits: float(np.log1p(len(text))),
    "error_handling": _matches(
        r"\b(?:[Ee]rrors?|[Ee]xceptions?|[Ff]ail\w*|[Rr]aises?|[Ii]nvalid|[Mm]issing|try|except)\b|错误|失败|异常|无效"
    ),
    "dialogue_quality": _matches(r"[“”\"][^“”\"\n]{2,80}[”\"]|\b(?:said|asked|replied)\b|说|道|问|答"),
    "privacy": _without(r"[\w.]+@[\w.]+\.\w+|\b\d{3}[-.]\d{3,4}[-.]\d{4}\b|\b(?:\d{1,3}\.){3}\d{1,3}\b|电话|地址"),
    "translation_quality": lambda text, bits: -abs(cjk_ratio(text) - round(cjk_ratio(text))),
    "readability": lambda text, bits: -rate(DEBRIS, text) - 100 * long_word_share(text) / 20,
    "markup_noise": lambda text, bits: -rate(MARKUP, text),
    "boilerplate": lambda text, bits: -rate(FURNITURE, text.lower()),
    "truncation": lambda text, bits: float(bool(SENTENCE_END.search(text[-80:]))) - 0.5 * text[-1:].isalnum(),
    "repetition": lambda text, bits: distinct_line_share(text),
    "language_purity": lambda text, bits: -rate(DEBRIS, text) - 5 * min(cjk_ratio(text), 1 - cjk_ratio(text)),
    "line_structure": lambda text, bits: good_line_share(text),
    "paragraph_structure": _matches(r"\n\s*\n"),
    "heading_structure": _matches(r"^(?:#+ .+|\d+(?:\.\d+)+ .+|[A-Z][A-Z ]{3,40}|第.{1,4}[章节].*)$"),
    "list_structure": _matches(r"^\s*(?:[-*•]|\d+[.)、])\s+\S"),
    "whitespace_regularity": _without(r"(?<=\S)[ \t]{2,}(?=\S)|\n{4,}|[ \t]+$"),
    "bracket_balance": lambda text, bits: bracket_balance(text),
    "capitalisation": lambda text, bits: sentence_start_share(text),
    "link_clutter": _without(r"https?://\S+|www\.\S+"),
    "symbol_load": _without(r"[^\w\s.,;:!?()\"'\-，。；：！？、（）“”《》]"),
    "character_repetition": _without(r"(.)\1{3,}"),
    "token_length_sanity": lambda text, bits: -long_word_share(text),
    "opening_completeness": lambda text, bits: float(not text.lstrip()[:1].islower() and text.lstrip()[:1].isalnum()),
    "table_debris": _without(r"\|.*\||\t\S+\t|[+|][-=]{3,}"),
    "length_adequacy": lambda text, bits: float(min(len(text), 1500)),
}
"""Dimension -> measure; every candidate has one."""


def measure_all(text: str, bits: float, names: list[str]) -> list[float]:
    """Return the measures of one document, in the order of `names`."""
    prefix = text[:CHARACTERS]
    return [float(MEASURES[name](prefix, bits)) for name in names]
