"""Find the final answer of a response, and refuse answers that try to cover more than one value."""

import re
from dataclasses import dataclass
from typing import Literal

from nanbeige_core.verify.notation import plain_notation, split_list, widen

LONGEST_ANSWER = 2000
"""characters"""
DEEPEST_NESTING = 50
THINK_END = "</think>"
END_MARKS = ("<|im_end|>", "<|endoftext|>", "</s>")

Refusal = Literal[
    "no answer", "empty answer", "too long", "nested too deeply", "hedged", "exponent tower", "chained equality"
]


@dataclass(frozen=True)
class Answer:
    """The text inside the last box."""

    text: str


@dataclass(frozen=True)
class NoAnswer:
    """Why a response has no answer that could be judged."""

    reason: Refusal


def final_part(response: str) -> str:
    """Return what follows the thinking, up to the end of the turn.

    A response that opens a think block and never closes it has no final part. Without any think block the whole
    response is the final part.
    """
    for mark in END_MARKS:
        response = response.split(mark, 1)[0]
    if THINK_END in response:
        return response.rsplit(THINK_END, 1)[1]
    return "" if "<think>" in response else response


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`, of nested ones the outermost; None where it does not end."""
    closing = _closing_braces(text)
    found: str | None = None
    end = 0
    for match in re.finditer(r"\\boxed(\s*\{)?", text):
        if match.start() < end:
            continue
        close = closing.get(match.end() - 1) if match[1] else None
        if close is None or close - match.end() >= 4 * LONGEST_ANSWER:
            found, end = None, match.end()
        else:
            found, end = text[match.end() : close], close + 1
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """Return where each opening brace that is closed is closed; escaped braces are text."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"(?<!(?<!\\)\\)[{}]", text):
        if match[0] == "{":
            opened.append(match.start())
        elif opened:
            closing[opened.pop()] = match.start()
    return closing


_WORD = r"(?<![A-Za-z\\])(?:{})(?![A-Za-z])"
ALTERNATIVES = (
    # another value is offered as well
    re.compile(
        _WORD.format("or|either|and/or") + r"|\\text\s*\{\s*or\s*\}|\\(?:lor|vee)(?![A-Za-z])|或|要么|∨",
        re.IGNORECASE,
    ),
    re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|±|∓"),
    re.compile(_WORD.format("and|but|except|besides") + r"|[和及且与]", re.IGNORECASE),
    re.compile(_WORD.format("to|between|through") + r"|[到至～]|(?<=\d)\s*~", re.IGNORECASE),
    # a condition, a doubt, a question
    re.compile(_WORD.format("if|unless|when|where|depends") + r"|如果|除非|若", re.IGNORECASE),
    re.compile(
        _WORD.format("maybe|perhaps|about|approximately|approx|around|roughly|probably|likely|possibly|nearly|almost|guess")
        + r"|\\(?:approx|sim|simeq)(?![A-Za-z])|大约|约|可能|也许|应该|大概|左右|估计|猜|觉得|认为|不确定|≈|^\s*~",
        re.IGNORECASE,
    ),
    re.compile(r"[?？吗…]|\.{2,}|\\(?:[lcv]?dots)(?![A-Za-z])"),
    # a bound instead of a value
    re.compile(
        _WORD.format("least|most|more|less|over|under|above|below") + r"|以上|以下|至少|至多|不[小大多少]于",
        re.IGNORECASE,
    ),
    re.compile(r"^\s*(?:\\(?:geq?|leq?|gt|lt)(?![A-Za-z])|[<>≤≥])"),
    # the opposite, or a step towards another value
    re.compile(
        _WORD.format("not|no|never|isn't|wrong|none") + r"|\\(?:not|neg|lnot|neq?)(?![A-Za-z])|[不非没无≠¬]",
        re.IGNORECASE,
    ),
    re.compile(r"\\(?:to|rightarrow|Rightarrow|implies|mapsto|equiv|iff)(?![A-Za-z])|[→⇒≡]|:="),
    re.compile(r"'|\\prime(?![A-Za-z])"),
)  # fmt: skip
"""What makes an answer cover, or seem to cover, more than the value it names; allowed where the reference has it."""
OFFERS = 2
"""The first so many of them only say that there are several values."""
DEEPEST_TOWER = 2
"""Exponents on exponents; a tower of three cannot be evaluated, so it is refused unless the reference has one."""


def has_several_values(gold: str) -> bool:
    """Say whether a reference is a list, a set, a union, or has two signs; then `or` says no more than a comma does."""
    values = re.sub(r"^\s*\\\{(.*)\\\}\s*$", r"\1", gold)
    union = re.search(r"\\(?:cup|lor|vee|neq?)(?![A-Za-z])", gold)
    return bool(union) or len(split_list(plain_notation(values))) > 1


def is_hedged(answer: str, gold: str) -> bool:
    """Say whether an answer offers alternatives (`7 or 8`, a plus-minus sign) that the reference does not."""
    several = has_several_values(gold)
    patterns = ALTERNATIVES[OFFERS:] if several else ALTERNATIVES
    return any(pattern.search(answer) and not pattern.search(gold) for pattern in patterns)


def equality_signs(text: str) -> int:
    """Count equality signs, not counting those of `<=`, `>=` and `!=`."""
    return len(re.findall(r"(?<![<>!=])=+(?!=)", text))


def tower(text: str) -> int:
    """Return how many exponents stand on exponents: 1 for `x^2`, 3 for `9^{9^{9^{9}}}`."""
    depth, open_at, deepest = 0, list[int](), 0
    for part in re.findall(r"\^\s*\{?|[{}]", text):
        if part.startswith("^"):
            depth += 1
            deepest = max(deepest, depth)
            if part.endswith("{"):
                open_at.append(depth)
            else:
                depth -= 1  # an exponent of one character ends at once
        elif part == "{":
            open_at.append(0)
        elif open_at and open_at.pop():
            depth -= 1
    return deepest


def nesting(text: str) -> int:
    """Return the deepest nesting of brackets."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def extract_answer(response: str, gold: str) -> Answer | NoAnswer:
    """Return the answer in the last box of the final part, or why there is none that may be judged.

    The reference `gold` is needed because alternatives are allowed exactly where it has them itself.
    """
    content = last_box(final_part(response))
    if content is not None and "\\boxed" in content:
        inner = last_box(content)
        if inner is None or content.strip() != f"\\boxed{{{inner}}}":
            return NoAnswer("hedged")
        content = inner
    if content is None:
        return NoAnswer("no answer")
    content = content.strip()
    if not content:
        return NoAnswer("empty answer")
    if len(content) > LONGEST_ANSWER:
        return NoAnswer("too long")
    if nesting(content) > DEEPEST_NESTING:
        return NoAnswer("nested too deeply")
    content, gold = widen(content), widen(gold)
    if is_hedged(content, gold):
        return NoAnswer("hedged")
    if tower(content) > max(DEEPEST_TOWER, tower(gold)):
        return NoAnswer("exponent tower")
    content = plain_notation(content)
    # `x = 5` may answer 5, but `x = 5 = 6` and `3 + 4 = 7` try to be read in more than one way
    equalities = equality_signs(content)
    named = re.match(r"^\s*(?:[一-鿿]{1,8}|\\?[A-Za-z][A-Za-z_]*(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?)\s*=", content)
    allowed = equality_signs(plain_notation(gold))
    if equalities > max(1, allowed) or (equalities and not named and not allowed) or "==" in content:
        return NoAnswer("chained equality")
    return Answer(content)
