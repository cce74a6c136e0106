"""Arithmetic from reasoning-gym, with step-by-step reasoning short enough for a small model.

Operands and answers are reasoning-gym's; prompts and reasoning are ours; each final answer is checked by the
data set's own `score_answer` before a problem is handed out.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from nanbeige_core.problems.problem import Family, Generate, Language, Problem, boxed


class Worked(NamedTuple):
    """A worked example: how the question is written, its reasoning and its result."""

    expression: str
    reasoning: str
    result: int
    group: str


Explain = Callable[[dict[str, Any], Language], Worked | None]

CALCULATE: dict[Language, tuple[str, ...]] = {
    "en": ("What is {e}?", "Compute {e}.", "Calculate {e}.", "{e} = ?"),
    "zh": ("{e} 等于多少？", "计算 {e}。", "求 {e} 的值。", "请问 {e} 是多少？"),
}
GCD: dict[Language, tuple[str, ...]] = {
    "en": ("What is the greatest common divisor of {e}?", "Find the gcd of {e}."),
    "zh": ("{e} 的最大公约数是多少？", "求 {e} 的最大公约数。"),
}
LCM: dict[Language, tuple[str, ...]] = {
    "en": ("What is the least common multiple of {e}?", "Find the lcm of {e}."),
    "zh": ("{e} 的最小公倍数是多少？", "求 {e} 的最小公倍数。"),
}
BITS: dict[Language, tuple[str, ...]] = {
    "en": ("How many 1 bits are in the binary form of {e}?", "Count the ones of {e} written in binary."),
    "zh": ("{e} 的二进制表示中有多少个1？", "把 {e} 写成二进制，其中有几个1？"),
}
CARRY: dict[Language, str] = {"en": "{s}, write {d}, carry 1.", "zh": "{s}，写{d}进1。"}
BORROW: dict[Language, str] = {"en": "{a}-{b}: borrow,", "zh": "{a}-{b}不够，借1，"}
SO: dict[Language, str] = {"en": "So", "zh": "所以"}


def add_by_digits(left: int, right: int, language: Language) -> str:
    """Write the column addition of two non-negative numbers, units first."""
    steps: list[str] = []
    carry = 0
    while left or right or (carry and not steps):
        a, b = left % 10, right % 10
        total = a + b + carry
        shown = f"{a}+{b}" + ("+1" if carry else "") + f"={total}"
        left, right = left // 10, right // 10
        carry = total // 10
        last = not (left or right)
        steps.append(CARRY[language].format(s=shown, d=total % 10) if carry and not last else f"{shown}.")
    return " ".join(steps) or "0+0=0."


def subtract_by_digits(left: int, right: int, language: Language) -> str:
    """Write the column subtraction of two numbers with left >= right >= 0, units first."""
    steps: list[str] = []
    borrow = 0
    while left or right or not steps:
        a, b = left % 10, right % 10
        top = a - borrow
        shown = f"{a}" + ("-1" if borrow else "") + f"-{b}"
        if top < b:
            steps.append(BORROW[language].format(a=top, b=b) + f" {top + 10}-{b}={top + 10 - b}.")
        else:
            steps.append(f"{shown}={top - b}.")
        borrow = int(top < b)
        left, right = left // 10, right // 10
    return " ".join(steps)


def work_out(left: int, right: int, operator: str, language: Language) -> str:
    """Write the steps of `left operator right` for non-negative operands."""
    if operator == "+":
        return add_by_digits(left, right, language)
    if left >= right:
        return subtract_by_digits(left, right, language)
    return f"{left}<{right}. {subtract_by_digits(right, left, language)} {right}-{left}={right - left}."


def explain_sum(metadata: dict[str, Any], language: Language) -> Worked:
    """Explain a two-term sum digit by digit and a longer one term by term."""
    expression = str(metadata["expression"])
    first, *pairs = re.findall(r"^-?\d+|[+-] \d+", expression)
    total = int(first)
    steps: list[str] = []
    for operator, term in (pair.split() for pair in pairs):
        after = total + int(term) if operator == "+" else total - int(term)
        if len(pairs) == 1:
            steps.append(work_out(total, int(term), operator, language))
        steps.append(f"{total}{operator}{term}={after}.")
        total = after
    compact = expression.replace(" ", "")
    steps[-1] = f"{SO[language]} {steps[-1]}"
    # 3 + 5 and 5 + 3 must not sit on two sides of a split
    terms = sorted(re.findall(r"\d+", expression), key=int)
    return Worked(compact, " ".join(steps), total, "sum:" + ",".join(terms))


def explain_product(metadata: dict[str, Any], language: Language) -> Worked | None:
    """Explain a product with one single-digit factor by splitting the other one."""
    left, right = (int(part) for part in str(metadata["expression"]).split("*"))
    small, large = sorted((left, right))
    if not (0 < small < 10) or large >= 100:
        return None
    tens, units = large - large % 10, large % 10
    parts = f"{tens}*{small}={tens * small}. {units}*{small}={units * small}. " if tens and units else ""
    added = f"{tens * small}+{units * small}={large * small}. " if parts else ""
    text = f"{parts}{added}{SO[language]} {left}*{right}={left * right}."
    return Worked(f"{left}*{right}", text, left * right, f"product:{small},{large}")


def explain_gcd(metadata: dict[str, Any], language: Language) -> Worked:
    """Explain a greatest common divisor by Euclid's remainders."""
    first, second = (int(number) for number in metadata["numbers"])
    a, b = max(first, second), min(first, second)
    steps: list[str] = []
    while b:
        steps.append(f"{a} mod {b} = {a % b}.")
        a, b = b, a % b
    joined = f"{first} and {second}" if language == "en" else f"{first} 和 {second}"
    low, high = sorted((first, second))
    return Worked(joined, f"{' '.join(steps)} {SO[language]} {a}.", a, f"gcd:{low},{high}")


def explain_lcm(metadata: dict[str, Any], language: Language) -> Worked:
    """Explain a least common multiple through the greatest common divisor."""
    a, b = (int(number) for number in metadata["numbers"])
    shared = math.gcd(a, b)
    joined = f"{a} and {b}" if language == "en" else f"{a} 和 {b}"
    text = f"gcd({a},{b})={shared}. {a}*{b}={a * b}. {a * b}/{shared}={a * b // shared}."
    return Worked(joined, text, a * b // shared, f"lcm:{min(a, b)},{max(a, b)}")


def explain_bits(metadata: dict[str, Any], language: Language) -> Worked:
    """Explain a bit count by writing the number in binary."""
    number = int(metadata["number"])
    ones = number.bit_count()
    text = f"{number} = {number:b}. " + ("Ones: " if language == "en" else "1的个数：") + f"{ones}."
    return Worked(str(number), text, ones, f"bits:{number}")


def reasoning_gym_generator(
    dataset: str,
    options: dict[str, int],
    *,
    explain: Explain,
    templates: Mapping[Language, Sequence[str]],
    seed: int,
) -> Generate:
    """Return a generator over one reasoning-gym data set."""
    import reasoning_gym  # half a second: imported when a family is first opened, not with this module

    items = reasoning_gym.create_dataset(dataset, size=1_000_000, seed=seed, **options)

    def generate(random: Random, language: Language) -> Problem | None:
        item = items[random.randrange(1_000_000)]
        worked = explain(item["metadata"], language)
        if worked is None or items.score_answer(str(worked.result), item) != 1.0:
            return None
        return Problem(
            domain="math",
            language=language,
            prompt=random.choice(templates[language]).format(e=worked.expression),
            reasoning=worked.reasoning,
            answer=boxed(worked.result),
            verifier="math",
            source=f"reasoning-gym/{dataset}",
            group=worked.group,
            spec={"gold": str(worked.result)},
        )

    return generate


def open_families(seed: int) -> list[Family]:
    """Open the arithmetic families; `seed` selects reasoning-gym's items."""
    table: list[tuple[str, str, dict[str, int], Explain, dict[Language, tuple[str, ...]], float]] = [
        ("sum2", "chain_sum", {"min_terms": 2, "max_terms": 2, "max_digits": 2}, explain_sum, CALCULATE, 4.0),
        ("sum3", "chain_sum", {"min_terms": 3, "max_terms": 3, "max_digits": 2}, explain_sum, CALCULATE, 2.0),
        ("product", "products", {"max_digits": 2}, explain_product, CALCULATE, 2.0),
        ("gcd", "gcd", {"max_value": 60}, explain_gcd, GCD, 1.0),
        ("lcm", "lcm", {"min_value": 2, "max_value": 20}, explain_lcm, LCM, 0.5),
        ("bits", "count_bits", {"max_n": 511}, explain_bits, BITS, 0.5),
    ]
    return [
        Family(
            name=name,
            domain="math",
            generate=reasoning_gym_generator(dataset, options, explain=explain, templates=templates, seed=seed),
            weight=weight,
            easy=name == "sum2",
        )
        for name, dataset, options, explain, templates, weight in table
    ]
