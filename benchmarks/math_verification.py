"""Grouped verifications of mathematical answers a second, against math-verify alone on the same answers.

    python benchmarks/math_verification.py [--groups 60] [--size 16] [--workers 2]

A group is what one prompt of an RL step gives: one reference, `size` responses, right ones in several spellings and
wrong ones. Constants are drawn anew for each group, so nothing is known from an earlier one. Prints the rate, the
processor time of a verification (workers included) and the share judged as constructed; math-verify runs without the
ladder, in this process, one after the other. Exit status 1 when a wrong answer is accepted.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import psutil

from nanbeige_core.verify.math_verifier import MathVerifier, open_math_verifier
from nanbeige_core.verify.verdict import VerificationRequest


class Question(NamedTuple):
    """A reference, spellings of it, and answers that are something else."""

    gold: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]


def whole(a: int, b: int) -> Question:
    """Give an integer."""
    return Question(str(a * b), (f"{a * b}", f"x={a * b}", f"{a * b}.0"), (str(a * b + 1), f"-{a * b}", f"{a}"))


def fraction(a: int, b: int) -> Question:
    """Give a fraction."""
    right = (f"\\frac{{{2 * a}}}{{{2 * b}}}", f"{a}/{b}", f"\\dfrac{{{a}}}{{{b}}}")
    return Question(f"\\frac{{{a}}}{{{b}}}", right, (f"\\frac{{{a}}}{{{b + 1}}}", f"{a + b}/{b}", f"{a * b}"))


def surd(a: int, b: int) -> Question:
    """Give a multiple of a root of 7, which takes symbols to compare."""
    right = (f"\\sqrt{{{7 * a * a}}}", f"\\frac{{{7 * a}}}{{\\sqrt{{7}}}}", f"{a}\\cdot 7^{{1/2}}")
    return Question(f"{a}\\sqrt{{7}}", right, (f"{a}\\sqrt{{11}}", f"{a + b}\\sqrt{{7}}", f"\\sqrt{{{7 * a}}}"))


def polynomial(a: int, b: int) -> Question:
    """Give a product of linear factors."""
    right = (f"x^2+{a + b}x+{a * b}", f"(x+{b})(x+{a})", f"x(x+{a + b})+{a * b}")
    return Question(f"(x+{a})(x+{b})", right, (f"x^2+{a + b}x+{a * b + 1}", f"(x-{a})(x-{b})", f"x^2+{a * b}"))


def interval(a: int, b: int) -> Question:
    """Give an interval."""
    low, high = -a, b
    right = (f"[{low},{high})", f"\\left[{low}, {high}\\right)", f"{low}\\le x<{high}")
    return Question(f"[{low}, {high})", right, (f"({low}, {high})", f"[{low}, {high}]", f"[{low}, {high + 1})"))


def angle(a: int, b: int) -> Question:
    """Give a multiple of pi with a trigonometric spelling."""
    right = (f"{a}\\pi/{b}", f"\\frac{{{2 * a}\\pi}}{{{2 * b}}}", f"\\frac{{{a}}}{{{b}}}\\pi")
    return Question(f"\\frac{{{a}\\pi}}{{{b}}}", right, (f"\\frac{{{a}\\pi}}{{{b + 1}}}", f"{a}\\pi", f"{a + b}/{b}"))


QUESTIONS: tuple[Callable[[int, int], Question], ...] = (whole, fraction, surd, polynomial, interval, angle)


def draw_groups(groups: int, size: int, seed: int) -> list[list[tuple[VerificationRequest, str, bool]]]:
    """Return groups of requests, with the answer and whether it is right."""
    random = Random(seed)
    drawn: list[list[tuple[VerificationRequest, str, bool]]] = []
    for number in range(groups):
        question = QUESTIONS[number % len(QUESTIONS)](random.randint(2, 97), random.randint(2, 97))
        group: list[tuple[VerificationRequest, str, bool]] = []
        for _ in range(size):
            right = random.random() < 0.5
            answer = random.choice(question.right if right else question.wrong)
            text = f"<think>\nSome steps.\n</think>\n\nThe answer is $\\boxed{{{answer}}}$."
            group.append((VerificationRequest(str(number), text, {"gold": question.gold}), answer, right))
        drawn.append(group)
    return drawn


def processor_seconds() -> float:
    """Return the processor time of this process and its workers."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def judge_groups(verifier: MathVerifier, groups: list[list[tuple[VerificationRequest, str, bool]]]) -> list[str]:
    """Return the outcomes, group by group as a step asks for them."""
    rows = [row for group in groups for row, _, _ in group]
    return [verdict.outcome for verdict in verifier.verify(rows)]


def judge_by_math_verify(answer: str, gold: str) -> bool:
    """Parse both sides and compare, as most training loops do."""
    from math_verify import parse, verify

    return verify(parse(f"${gold}$"), parse(f"$\\boxed{{{answer}}}$"))


def main() -> None:
    """Measure both sides."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--groups", type=int, default=60)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    groups = draw_groups(arguments.groups, arguments.size, seed=0)
    labels = [right for group in groups for _, _, right in group]
    with open_math_verifier(workers=arguments.workers) as verifier:
        judge_groups(verifier, draw_groups(len(QUESTIONS) * arguments.workers, arguments.size, seed=1))
        started, used = time.monotonic(), processor_seconds()
        outcomes = judge_groups(verifier, groups)
        seconds, used = time.monotonic() - started, processor_seconds() - used
    agreed = sum((outcome == "correct") == right for outcome, right in zip(outcomes, labels, strict=True))
    accepted = sum(outcome == "correct" and not right for outcome, right in zip(outcomes, labels, strict=True))
    report("ladder", len(labels), seconds, used, agreed)
    started, used = time.monotonic(), time.process_time()
    theirs = [judge_by_math_verify(answer, row.spec["gold"]) for group in groups for row, answer, _ in group]
    seconds, used = time.monotonic() - started, time.process_time() - used
    report("math-verify alone", len(labels), seconds, used, sum(a == b for a, b in zip(theirs, labels, strict=True)))
    sys.exit(1 if accepted else 0)


def report(name: str, count: int, seconds: float, used: float, agreed: int) -> None:
    """Print one side."""
    print(
        f"{name}: {count} verifications in {seconds:.1f} s ({count / seconds:.0f}/s), {1000 * used / count:.2f} CPU-ms "
        f"each (at most {2 * count / used:.0f}/s on two cores), {agreed} judged as constructed"
    )


if __name__ == "__main__":
    main()
