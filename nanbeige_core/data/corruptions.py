"""Damage with a known kind and severity: labelled examples for the tagger that need no human.

Each corruption maps (text, severity in 0..1, random state, another text) to a damaged text and names the labels it
lowers; a damaged document's label is its parent's label times `1 - severity * effect`.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

UNIT = re.compile(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+|\s+")
BOILERPLATE = (
    "Accept all cookies | Privacy policy | Terms of service",
    "Home > Products > Support > Contact us > Login / Register",
    "Copyright (c) All rights reserved. Click here to subscribe to our newsletter!",
    "Share on Facebook  Share on Twitter  Print this page",
    "首页 | 登录 | 注册 | 联系我们 | 广告合作 | 版权所有",
    "点击这里下载客户端，关注公众号，转发本文到朋友圈",
)
TAGS = (
    '<div class="nav-item">',
    "</div>",
    "&nbsp;&amp;",
    "<br/>",
    '<a href="/index.php?id=33">',
    "</a></li>",
    "{{template}}",
)
NOISE = "�¤ÃÂ©ï¿½®ž§¥~^|¬§"


@dataclass(frozen=True)
class Corruption:
    """One kind of damage and how strongly it lowers each label it touches."""

    name: str
    apply: Callable[[str, float, random.Random, str], str]
    effects: dict[str, float]


def shuffle_words(text: str, severity: float, source: random.Random, other: str) -> str:
    """Permute a share of the words (characters in Chinese) among themselves."""
    units = UNIT.findall(text)
    chosen = [index for index, unit in enumerate(units) if unit.strip() and source.random() < severity]
    moved = chosen[:]
    source.shuffle(moved)
    result = units[:]
    for target, origin in zip(chosen, moved, strict=True):
        result[target] = units[origin]
    return "".join(result)


def shuffle_lines(text: str, severity: float, source: random.Random, other: str) -> str:
    """Permute a share of the lines or sentences."""
    lines = re.split(r"(?<=[.。!?！？\n])", text)
    chosen = [index for index in range(len(lines)) if source.random() < severity]
    moved = chosen[:]
    source.shuffle(moved)
    result = lines[:]
    for target, origin in zip(chosen, moved, strict=True):
        result[target] = lines[origin]
    return "".join(result)


def truncate(text: str, severity: float, source: random.Random, other: str) -> str:
    """Cut the end off, in the middle of a word where there is one."""
    end = max(20, int(len(text) * (1 - 0.7 * severity)))
    while end > 20 and not (text[end - 1 : end].isalnum() and text[end : end + 1].isalnum()):
        end -= 1
    return text[:end]


def repeat_lines(text: str, severity: float, source: random.Random, other: str) -> str:
    """Replace a share of the lines by copies of one of them."""
    lines = [line for line in re.split(r"(?<=[.。\n])", text) if line.strip()]
    repeated = source.choice(lines) if lines else text
    return "".join(repeated if source.random() < severity else line for line in lines) + repeated


def add_markup(text: str, severity: float, source: random.Random, other: str) -> str:
    """Insert markup remains between words."""
    units = UNIT.findall(text)
    return "".join(unit + (source.choice(TAGS) if source.random() < 0.3 * severity else "") for unit in units)


def add_boilerplate(text: str, severity: float, source: random.Random, other: str) -> str:
    """Insert page furniture between lines."""
    lines = text.split("\n")
    wanted = max(1, int(severity * max(4, len(lines)) * 0.6))
    for _ in range(wanted):
        lines.insert(source.randrange(len(lines) + 1), source.choice(BOILERPLATE))
    return "\n".join(lines)


def add_noise(text: str, severity: float, source: random.Random, other: str) -> str:
    """Replace characters by the remains of a wrong decoding."""
    return "".join(source.choice(NOISE) if source.random() < 0.25 * severity else char for char in text)


def splice_other(text: str, severity: float, source: random.Random, other: str) -> str:
    """Replace a middle part by text of another document."""
    length = max(1, int(len(text) * 0.8 * severity))
    start = source.randrange(max(1, len(text) - length + 1))
    return text[:start] + other[:length] + text[start + length :]


def change_numbers(text: str, severity: float, source: random.Random, other: str) -> str:
    """Replace a share of the digits by random ones."""
    return "".join(
        str(source.randrange(10)) if char.isdigit() and char.isascii() and source.random() < severity else char
        for char in text
    )


CORRUPTIONS = (
    Corruption(
        "shuffle_words",
        shuffle_words,
        {
            "logical_coherence": 1.0,
            "reasoning_depth": 0.8,
            "educational_value": 0.8,
            "usefulness": 0.8,
            "factual_accuracy": 0.6,
            "readability": 0.9,
            "problem_solution": 0.6,
            "knowledge_density": 0.5,
        },
    ),
    Corruption("shuffle_lines", shuffle_lines, {"logical_coherence": 0.7, "reasoning_depth": 0.5, "usefulness": 0.4}),
    Corruption("truncate", truncate, {"truncation": 1.0, "completeness": 0.9, "usefulness": 0.3}),
    Corruption(
        "repeat_lines",
        repeat_lines,
        {"repetition": 1.0, "originality": 0.9, "knowledge_density": 0.9, "completeness": 0.4, "usefulness": 0.5},
    ),
    Corruption("add_markup", add_markup, {"markup_noise": 1.0, "readability": 0.7, "usefulness": 0.4}),
    Corruption(
        "add_boilerplate",
        add_boilerplate,
        {"boilerplate": 1.0, "topical_focus": 0.6, "usefulness": 0.5, "knowledge_density": 0.4},
    ),
    Corruption("add_noise", add_noise, {"readability": 1.0, "language_purity": 1.0, "usefulness": 0.7}),
    Corruption(
        "splice_other",
        splice_other,
        {"topical_focus": 1.0, "logical_coherence": 0.6, "completeness": 0.5, "language_purity": 0.4},
    ),
    Corruption("change_numbers", change_numbers, {"factual_accuracy": 0.9, "code_math_substance": 0.3}),
)
