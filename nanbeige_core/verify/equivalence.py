"""Decide in microseconds whether two answers are the same text or the same number; undecided is allowed."""

import re
import unicodedata
from fractions import Fraction
from typing import Literal

Decision = Literal["same", "different", "undecided"]

SPACING = re.compile(
    r"\\[,;:! ]|\\q?quad(?![A-Za-z])|\\left(?![A-Za-z])|\\right(?![A-Za-z])|~|\$|\\displaystyle(?![A-Za-z])"
)
NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
LONGEST_NUMBER = 400
"""digits; longer ones go to the symbolic rung, which has limits"""


def normalise(text: str) -> str:
    """Bring two spellings of one answer together: width, spacing, dollar signs, thousands commas, a final stop."""
    text = unicodedata.normalize("NFKC", text.replace("−", "-"))
    text = SPACING.sub("", text)
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\s+", "", text).rstrip(".。")
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def exact_number(text: str) -> Fraction | None:
    """Return the rational number a normalised text writes (integer, decimal, a/b or \\frac{a}{b}), or None."""
    if len(text) > LONGEST_NUMBER:
        return None
    if NUMBER.fullmatch(text):
        return Fraction(text)
    match = FRACTION.fullmatch(text) or re.fullmatch(r"([+-]?)(\d+)/(\d+)", text)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[2]), int(match[3]))
    return -value if match[1] == "-" else value


UNIT = re.compile(
    r"(?P<value>.*[\d}])\s*(?:\\(?:text|mathrm|textbf)\{\s*(?P<text>[^{}]+?)\s*\}"
    r"|\s(?P<word>[A-Za-z°][A-Za-z/²³^0-9]*)|(?P<chinese>[一-鿿/]+)|\\?(?P<percent>%))\s*"
)


def split_unit(text: str) -> tuple[str, str]:
    """Split `5\\text{ cm}`, `5 cm`, `5厘米` or `5\\%` into its value and its unit; the unit may be empty."""
    match = UNIT.fullmatch(text.strip().rstrip(".。"))
    if match is None:
        return text, ""
    unit = match["text"] or match["word"] or match["chinese"] or match["percent"]
    return match["value"], "".join(unit.split()).lower()


def value_side(text: str) -> str:
    """Drop a variable before a single equality sign: `x=5` writes 5."""
    return re.sub(r"^\\?[A-Za-z]\w*(?:_\{?\w+\}?)?=", "", text)


def compare_quickly(answer: str, gold: str, *, tolerance: float = 1e-9) -> Decision:
    """Compare by normalised text, then as exact rationals, then as decimals within a relative tolerance.

    The tolerance only joins decimals that were rounded; two whole numbers are the same or different.
    """
    if normalise(answer) == normalise(gold):
        return "same"
    answer_value, answer_unit = split_unit(answer)
    gold_value, gold_unit = split_unit(gold)
    if answer_unit and gold_unit and answer_unit != gold_unit:
        return "different"  # 5 cm is not 5 m; answers are expected in the unit that was asked for
    left, right = normalise(answer_value), normalise(gold_value)
    if "=" not in right:
        left = value_side(left)
    if left == right:
        return "same"
    found, expected = exact_number(left), exact_number(right)
    if found is None or expected is None:
        return "undecided"
    if found == expected:
        return "same"
    if found.denominator == expected.denominator == 1:
        return "different"
    scale = max(abs(found), abs(expected))
    return "same" if abs(found - expected) <= Fraction(tolerance) * scale else "different"
