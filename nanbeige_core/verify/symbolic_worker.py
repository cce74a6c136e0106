"""The process that compares two answers symbolically: one JSON request a line in, one JSON reply a line out.

math-verify parses and compares; its own time-outs (wall-clock alarms) are off, because a processor-time limit on
this process is exact and cannot be swallowed: when a comparison exceeds it, the kernel ends the process.
What has a numeric value is decided by evaluating both sides at random points to 30 digits, since math-verify compares
floats by absolute difference and so takes 2^-99 for 2^-98; math-verify decides the rest (relations, sets, texts).
"""

import json
import logging
import re
import resource
import sys
import time
from random import Random
from typing import Any

CPU_SECONDS = 3
ADDRESS_BYTES = 4 << 30
RELATIVE_TOLERANCE = 1e-6
"""What a decimal answer to an irrational reference has to reach."""
EXACT_TOLERANCE = 1e-20
DIGITS = 30
POINTS = 5


def limit_processor(seconds: int) -> None:
    """Let the kernel end this process after `seconds` more of processor time (rounded up to whole seconds)."""
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _imaginary_unit(expression: Any) -> Any:
    """Read the letter i as the imaginary unit: answers that use it otherwise use it on both sides alike."""
    import sympy

    if not isinstance(expression, sympy.Expr):
        return expression
    return expression.subs({symbol: sympy.I for symbol in expression.free_symbols if str(symbol) == "i"})


def _value(expression: Any, point: dict[str, Any]) -> Any:
    """Evaluate at a point, exactly if rational, else to 30 digits; None where the value is not finite.

    Symbols are known by name alone: the parser gives one name different assumptions in different answers.
    """
    import sympy

    value = expression.subs({symbol: point[str(symbol)] for symbol in expression.free_symbols}).doit()
    if value.is_Rational:
        return value  # exact, however many digits it has
    value = value.evalf(DIGITS)
    if not value.is_number or value.has(sympy.nan, sympy.oo, sympy.zoo, -sympy.oo):
        return None
    return value


def numerically_equal(gold: Any, answer: Any) -> bool | None:
    """Compare two sympy expressions at random points with 30 digits; None when they cannot be evaluated.

    Without decimals in either side the values must agree to 20 digits, since symbolic libraries compare floats by an
    absolute difference. Collections agree where all their elements do. Points where one side leaves the real numbers
    are skipped: `ln x^2` and `2 ln x` are one answer.
    """
    import sympy

    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        return gold.shape == answer.shape and _all_equal(gold.flat(), answer.flat())
    gold, answer = _vector(gold, answer), _vector(answer, gold)
    if isinstance(gold, sympy.Tuple) and isinstance(answer, sympy.Tuple):
        return len(gold) == len(answer) and _all_equal(list(gold), list(answer))
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return None
    names = sorted({str(symbol) for side in (gold, answer) for symbol in side.free_symbols})
    tolerance = RELATIVE_TOLERANCE if gold.has(sympy.Float) or answer.has(sympy.Float) else EXACT_TOLERANCE
    complex_allowed = not names or gold.has(sympy.I) or answer.has(sympy.I)
    random, checked = Random(0), 0
    for index in range(POINTS if names else 1):
        sign = -1 if index % 3 == 2 else 1
        point = {name: sign * sympy.Rational(random.randrange(1, 400), 97) for name in names}
        first, second = _value(gold, point), _value(answer, point)
        if first is None or second is None or not (complex_allowed or (sympy.im(first) == sympy.im(second) == 0)):
            continue
        checked += 1
        exact = first.is_Rational and second.is_Rational and tolerance == EXACT_TOLERANCE
        if (first != second) if exact else (abs(first - second) > tolerance * max(abs(first), abs(second))):
            return False
    return True if checked >= min(2, POINTS if names else 1) else None


def _vector(value: Any, other: Any) -> Any:
    """Return a matrix of one column or row as a tuple where the other side is a tuple."""
    import sympy

    if isinstance(value, sympy.MatrixBase) and isinstance(other, sympy.Tuple) and 1 in value.shape:
        return sympy.Tuple(*value.flat())
    return value


def _all_equal(golds: list[Any], answers: list[Any]) -> bool | None:
    results = [numerically_equal(gold, answer) for gold, answer in zip(golds, answers, strict=True)]
    return None if None in results else all(results)


def _as_set(value: Any) -> Any:
    """Return the real solutions of `x > 3`, `1 < x < 2` or a list of such, or a set itself; None for anything else."""
    import sympy
    from sympy.core.relational import Relational

    if isinstance(value, sympy.Equality) and isinstance(value.rhs, sympy.Set):
        return value.rhs  # how `x \\in S` is parsed
    if isinstance(value, sympy.FiniteSet) and any(isinstance(item, (Relational, sympy.And)) for item in value.args):
        solutions = [_as_set(item) for item in value.args]
        return None if None in solutions else sympy.Union(*solutions)
    if isinstance(value, (Relational, sympy.And, sympy.Or)) and not isinstance(value, sympy.Equality):
        return value.as_set() if len(value.free_symbols) == 1 else None
    return value if isinstance(value, sympy.Set) else None


def degrees_as_radians(text: str) -> str:
    """Write `60^\\circ` as a number of radians, so that `\\cos 60^\\circ` can be evaluated."""
    return re.sub(r"(\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?", r"(\1\\cdot\\frac{\\pi}{180})", text)


def compare(gold: str, answer: str) -> str:
    """Return `same`, `different` or `unparsed` for two answers in LaTeX."""
    from math_verify import parse, verify

    no_alarm: Any = None  # documented by math-verify as "no time-out", though annotated int
    expected = parse(f"\\boxed{{{degrees_as_radians(gold)}}}", parsing_timeout=no_alarm)
    found = parse(f"\\boxed{{{degrees_as_radians(answer)}}}", parsing_timeout=no_alarm)
    if not expected:
        return "unparsed"
    if not found:
        return "different"
    first, second = _imaginary_unit(expected[0]), _imaginary_unit(found[0])
    numeric = _numeric(first, second)
    if numeric is not None:
        return "same" if numeric else "different"
    left, right = _as_set(first), _as_set(second)
    if left is not None and right is not None and left == right:
        return "same"
    return "same" if verify(expected, found, timeout_seconds=no_alarm) else "different"


def _numeric(first: Any, second: Any) -> bool | None:
    try:
        return numerically_equal(first, second)
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        return None  # sympy cannot evaluate everything it can parse


def main() -> None:
    """Serve requests until standard input closes."""
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    compare("\\frac{1}{2}", "0.5")  # imports and builds the parser before the first clock starts
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        limit_processor(CPU_SECONDS)
        try:
            reply = {"result": compare(request["gold"], request["answer"])}
        except (MemoryError, RecursionError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
            reply = {"result": "failed", "detail": f"{type(error).__name__}: {error}"[:200]}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
