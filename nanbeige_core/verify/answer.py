"""Find the final answer of a response, and refuse answers that try to cover more than one value."""

import re
from dataclasses import dataclass
from typing import Literal

LONGEST_ANSWER = 2000
"""characters"""
DEEPEST_NESTING = 50
THINK_END = "</think>"
END_MARKS = ("<|im_end|>", "<|endoftext|>", "</s>")

Refusal = Literal["no answer", "empty answer", "too long", "nested too deeply", "hedged", "chained equality"]


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
    r"""Return the content of the last complete `\boxed{...}`, braces balanced; None when there is none."""
    start = text.rfind("\\boxed")
    if start < 0:
        return None
    match = re.compile(r"\\boxed\s*\{").match(text, start)
    if match is None:
        return None
    depth = 1
    for position in range(match.end(), min(len(text), match.end() + 4 * LONGEST_ANSWER)):
        character = text[position]
        escaped = text[position - 1] == "\\" and text[position - 2] != "\\"
        if escaped:
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[match.end() : position]
    return None


HEDGE = re.compile(
    r"(?<![A-Za-z])(?:or|either|maybe|perhaps|about|approximately|and/or)(?![A-Za-z])|\\text\s*\{\s*(?:or|and)\s*\}"
    r"|\\(?:lor|vee|approx)(?![A-Za-z])|或|大约|约|可能|也许|≈|∨",
    re.IGNORECASE,
)
SIGNS = re.compile(r"\\pm(?![A-Za-z])|\\mp(?![A-Za-z])|±|∓")


def is_hedged(answer: str, gold: str) -> bool:
    """Say whether an answer offers alternatives (`7 or 8`, a plus-minus sign) that the reference does not."""
    return any(pattern.search(answer) and not pattern.search(gold) for pattern in (HEDGE, SIGNS))


def equality_signs(text: str) -> int:
    """Count equality signs, not counting those of `<=`, `>=` and `!=`."""
    return len(re.findall(r"(?<![<>!=])=+(?!=)", text))


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
    if content is None:
        return NoAnswer("no answer")
    content = content.strip()
    if not content:
        return NoAnswer("empty answer")
    if len(content) > LONGEST_ANSWER:
        return NoAnswer("too long")
    if nesting(content) > DEEPEST_NESTING:
        return NoAnswer("nested too deeply")
    if is_hedged(content, gold):
        return NoAnswer("hedged")
    # `x = 5` may answer 5, but `x = 5 = 6` and `3 + 4 = 7` try to be read in more than one way
    equalities = equality_signs(content)
    named = re.match(r"^\s*\\?[A-Za-z][A-Za-z_]*(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?\s*=", content)
    if equalities > max(1, equality_signs(gold)) or (equalities and not named and not equality_signs(gold)):
        return NoAnswer("chained equality")
    return Answer(content)
