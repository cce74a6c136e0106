"""Decide in microseconds whether two answers are the same text, choice, quantity or number; undecided is allowed."""

import re
from fractions import Fraction
from typing import Literal, NamedTuple

from nanbeige_core.verify.notation import LARGEST_EXPONENT, SPACING, plain_notation, split_list, widen
from nanbeige_core.verify.units import Unit, read_unit

Decision = Literal["same", "different", "words"]
"""`words`: the answer says something in words that neither the reference says nor a unit is."""


class Question(NamedTuple):
    """What the quick rungs leave to the symbolic one: two texts in plain LaTeX, without units."""

    answer: str
    gold: str


class Quantity(NamedTuple):
    """A value and the text of its unit."""

    value: str
    unit: str


NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
FRACTION = re.compile(r"([+-]?)\\[dt]?frac\{([+-]?\d+)\}\{([+-]?\d+)\}")
MIXED = re.compile(r"([+-]?)(\d+)\\[dt]?frac\{(\d+)\}\{(\d+)\}")
SCIENTIFIC = re.compile(r"([+-]?\d+(?:\.\d*)?)(?:\\times|\\cdot)10\^\{?([+-]?\d{1,3})\}?")
BASED = re.compile(r"([0-9A-Fa-f]{1,64})_\{?(\d{1,2})\}?")
LONGEST_NUMBER = 400
"""digits; longer ones go to the symbolic rung, which has limits"""
CHOICE = re.compile(r"[A-J]")
CHOICES = re.compile(r"[A-J]{2,10}")
CHOSEN = re.compile(
    r"(?:(?:答案)?[为是]?选?项?|option\s+|choice\s+)?\(?\s*([A-Ja-j])\s*\)?(?:选?项|[.:]|(?:[.:]\s*|(?<=\))\s*)(?P<rest>\S.*))?\s*",
    re.IGNORECASE,
)
FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "log",
        "exp",
        "gcd",
        "lcm",
        "max",
        "min",
        "sqrt",
        "frac",
        "mod",
        "det",
    ]
)


def normalise(text: str) -> str:
    """Bring two spellings of one answer together: width, spacing, dollar signs, thousands commas, a final stop."""
    text = SPACING.sub("", widen(text))
    text = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\s+", "", text).rstrip(".。")
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def exact_number(text: str) -> Fraction | None:
    """Return the rational number a normalised text writes, or None.

    Read are integers, decimals, a/b, \\frac{a}{b}, 2\\frac{1}{2}, a\\times10^{n} and digits with a base (101_2).
    """
    if len(text) > LONGEST_NUMBER:
        return None
    if NUMBER.fullmatch(text):
        return Fraction(text)
    if match := SCIENTIFIC.fullmatch(text):
        exponent = int(match[2])
        return Fraction(match[1]) * Fraction(10) ** exponent if abs(exponent) <= LARGEST_EXPONENT else None
    if match := BASED.fullmatch(text):
        return _based(match[1], int(match[2]))
    if (match := MIXED.fullmatch(text)) and int(match[4]):
        value = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    match = FRACTION.fullmatch(text) or re.fullmatch(r"([+-]?)(\d+)/(\d+)", text)
    if match is None or int(match[3]) == 0:
        return None
    value = Fraction(int(match[2]), int(match[3]))
    return -value if match[1] == "-" else value


def _based(digits: str, base: int) -> Fraction | None:
    try:
        return Fraction(int(digits, base)) if 2 <= base <= 16 else None
    except ValueError:  # a digit that the base does not have
        return None


UNIT = re.compile(
    r"(?P<value>.*(?:[\d})]|\\pi))\s*(?:(?P<text>\\(?:text|mathrm|textbf|mathbf|rm)\{\s*[^{}]+?\s*\}(?:\^\{?\d\}?)?)"
    r"|(?:\s|(?<=\d)(?=[A-Za-zμΩ]{2}))(?P<word>[A-Za-zμΩ][A-Za-z/Ω\s]*(?:\^\{?\d\}?)?)|(?P<chinese>[一-鿿/]+|℃)|\\?(?P<percent>%)"
    r"|(?P<celsius>\^\{?\s*\\circ\s*\}?\s*(?:\\(?:text|mathrm)\s*)?\{?\s*C\s*\}?)|\^\{?\s*(?P<degree>\\circ)\s*\}?)\s*"
)


def split_unit(text: str, other: str = "") -> Quantity:
    """Split `5\\text{ cm}`, `5 cm^2`, `5厘米`, `60^\\circ` or `5\\%` into its value and its unit, which may be
    empty.

    One or two letters that `other`, the text it is compared with, uses as variables, or that no unit has, are factors.
    """
    match = UNIT.fullmatch(text.strip().rstrip(".。"))
    if match is None:
        return Quantity(text, "")
    if match["degree"] and re.search(r"\\[a-z]", match["value"]):
        return Quantity(text, "")  # the angle inside a function
    word = match["word"]
    if word and len(word) <= 2 and (read_unit(word) is None or re.search(rf"(?<![A-Za-z\s]){word}(?![A-Za-z])", other)):
        return Quantity(text, "")
    named = "℃" if match["celsius"] else match["text"] or word or match["chinese"]
    unit = named or match["percent"] or match["degree"]
    return Quantity(match["value"], unit.strip())


def value_side(text: str) -> str:
    """Drop a variable before a single equality sign: `x=5` writes 5."""
    return re.sub(r"^\\?[A-Za-z]\w*(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?=", "", text)


def chosen_letter(text: str) -> str | None:
    """Return the one letter of a multiple-choice answer: `C`, `(C)`, `选C`, `C. 12`; None when it names none or more.

    What follows the letter may say the choice's content, but may name no other letter.
    """
    plain = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", widen(text)).strip()
    match = CHOSEN.fullmatch(plain)
    if match is None or re.search(r"(?<![A-Za-z])[A-J](?![A-Za-z])", match["rest"] or ""):
        return None
    return match[1].upper()


def chosen_letters(text: str) -> str:
    """Return what names several choices (`选A、B`, `\\text{A, B}`) without the words around the letters."""
    plain = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", widen(text)).strip()
    return re.sub(r"^(?:答案)?[为是]?选?项?", "", plain)


def brackets(text: str) -> set[str]:
    """Say what encloses several values: `set` for braces, `ordered` for parentheses; nothing for anything else."""
    inner = re.fullmatch(r"\\\{(.*)\\\}|\((.*)\)", text.strip())
    if inner is None or len(split_list(inner[1] or inner[2] or "")) < 2:
        return set()
    return {"ordered" if inner[1] is None else "set"}


def compare_quickly(answer: str, gold: str, *, tolerance: float = 1e-9) -> Decision | Question:
    """Compare by normalised text, as a choice, as quantities with units, as numbers, then as lists.

    What none of these decides comes back as the Question that the symbolic rung is asked. The tolerance is relative
    and only joins decimals that were rounded; two whole numbers are the same or different.
    """
    if normalise(answer) == normalise(gold):
        return "same"
    if CHOICE.fullmatch(gold.strip()):
        return "same" if chosen_letter(answer) == gold.strip() else "different"
    if CHOICES.fullmatch(gold.strip()) and re.sub(r"[\s,、，]|和|and", "", chosen_letters(answer)) == gold.strip():
        return "same"
    answer, gold = plain_notation(answer), plain_notation(gold)
    if len(gold) > 2 and normalise(answer).casefold() == normalise(gold).casefold():
        return "same"  # text answers; single letters are names and keep their case
    found, expected = split_unit(answer, gold), split_unit(gold, answer)
    if found.unit or expected.unit:
        return _compare_quantities(found, expected, tolerance)
    decision = compare_values(answer, gold, tolerance=tolerance)
    if isinstance(decision, str):
        return decision
    answers, golds = split_list(answer), split_list(gold)
    if foreign_words(_as_list(answers), gold):
        return "words"
    if brackets(answer) | brackets(gold) == {"set", "ordered"}:
        return "different"  # {1, 2} is neither the point nor the interval (1, 2)
    same = len(answers) == len(golds) > 1 and _same_lists(answers, golds, tolerance)
    return "same" if same else Question(_as_list(answers), _as_list(golds))


def compare_values(
    answer: str, gold: str, *, scale: Fraction = Fraction(1), tolerance: float = 1e-9
) -> Decision | Question:
    """Compare two numbers, the answer multiplied by `scale` first; a Question for what is no number."""
    left, right = normalise(answer), normalise(gold)
    if "=" not in right:
        left = value_side(left)
    if left == right and scale == 1:
        return "same"
    found, expected = exact_number(left), exact_number(right)
    if found is None or expected is None:
        factor = "" if scale == 1 else f"\\frac{{{scale.numerator}}}{{{scale.denominator}}}\\cdot "
        return Question(f"{factor}({answer})" if factor else answer, gold)
    found *= scale
    if found == expected:
        return "same"
    if found.denominator == expected.denominator == 1:
        return "different"
    size = max(abs(found), abs(expected))
    return "same" if abs(found - expected) <= Fraction(tolerance) * size else "different"


def _compare_quantities(answer: Quantity, gold: Quantity, tolerance: float) -> Decision | Question:
    """Compare values with units: converted where both are known, by value where one side states none."""
    if foreign_words(answer.value, gold.value):
        return "words"
    if answer.unit and normalise(answer.unit).lower() == normalise(gold.unit).lower():
        return compare_values(answer.value, gold.value, tolerance=tolerance)
    found, expected = (read_unit(side.unit) if side.unit else None for side in (answer, gold))
    if answer.unit and found is None:
        return "words"
    if found is not None and gold.unit:
        if expected is None or found.dimensions != expected.dimensions:
            return "different"  # 5 cm is not 5 s
        return compare_values(answer.value, gold.value, scale=found.factor / expected.factor, tolerance=tolerance)
    return _compare_one_unit(answer, gold, (found or expected), tolerance)


def _compare_one_unit(answer: Quantity, gold: Quantity, unit: Unit | None, tolerance: float) -> Decision | Question:
    """Compare where one side states no unit: its number is read in the other side's unit.

    A percentage may also be meant as a share (50 % for 0.5), and an angle in degrees as one in radians where the
    other side is a multiple of pi.
    """
    dimensions = unit.dimensions if unit is not None else ()
    decision = compare_values(answer.value, gold.value, tolerance=tolerance)
    if dimensions == (("percent", 1),) and decision == "different":
        scale = Fraction(1, 100) if answer.unit else Fraction(100)
        return compare_values(answer.value, gold.value, scale=scale, tolerance=tolerance)
    if dimensions == (("angle", 1),) and isinstance(decision, Question) and "\\pi" in answer.value + gold.value:
        degrees = "({})\\cdot\\frac{{\\pi}}{{180}}"
        left = degrees.format(answer.value) if answer.unit else answer.value
        return Question(left, gold.value if answer.unit else degrees.format(gold.value))
    return decision


def _same_lists(answers: list[str], golds: list[str], tolerance: float) -> bool:
    """Compare lists as sets: each answer needs a partner of its own."""
    left = list(golds)
    for answer in answers:
        partner = next((gold for gold in left if compare_values(answer, gold, tolerance=tolerance) == "same"), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _as_list(parts: list[str]) -> str:
    return ",".join(parts)


def foreign_words(answer: str, gold: str) -> bool:
    """Say whether an answer holds words (Chinese, `\\text{}`, or three letters in a row) that the reference does not.

    A parser that skips words would read `7 is not the answer` as 7.
    """
    known = normalise(gold).casefold()
    answer = re.sub(r"\\(?:begin|end)\{[a-z]*\}", "", answer)
    said = re.findall(r"[一-鿿]+|\\(?:text|mathrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}", answer)
    said = [*said, *re.findall(r"[一-鿿]+", answer), *re.findall(r"(?<![A-Za-z\\])[A-Za-z]{3,}", answer)]
    words = [word for text in said for word in re.findall(r"[一-鿿]+|[A-Za-z]{2,}", text)]
    words += re.findall(
        r"^[\d.]+\s*([A-Za-z]{2})$", answer
    )  # `5ab` is read as 5 by a parser that knows units of its own
    return any(word.casefold() not in FUNCTIONS and word.casefold() not in known for word in words)
