"""The process that compares two answers symbolically: one JSON request a line in, one JSON reply a line out.

math-verify parses and compares; its own time-outs (wall-clock alarms) are off, because a processor-time limit on
this process is exact and cannot be swallowed: when a comparison exceeds it, the kernel ends the process.
A positive result is checked a second time by evaluating both sides to 30 digits, since math-verify compares floats
by absolute difference and so takes 2^-99 for 2^-98.
"""

import json
import logging
import resource
import sys
import time
from typing import Any

CPU_SECONDS = 3
ADDRESS_BYTES = 4 << 30
RELATIVE_TOLERANCE = 1e-6
"""Also what a decimal answer to an irrational reference has to reach."""


def limit_processor(seconds: int) -> None:
    """Let the kernel end this process after `seconds` more of processor time (rounded up to whole seconds)."""
    soft = int(time.process_time()) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def numerically_equal(gold: Any, answer: Any) -> bool | None:
    """Compare two sympy expressions at 30 digits; None when they have no numeric value."""
    try:
        first, second = gold.evalf(30), answer.evalf(30)
        if not (first.is_number and second.is_number):
            return None
        scale = max(abs(first), abs(second))
        return bool(scale == 0 or abs(first - second) <= RELATIVE_TOLERANCE * scale)
    except (AttributeError, TypeError, ValueError):
        return None  # sets, relations and matrices have no evalf to compare


def compare(gold: str, answer: str) -> str:
    """Return `same`, `different` or `unparsed` for two answers in LaTeX."""
    from math_verify import parse, verify

    no_alarm: Any = None  # documented by math-verify as "no time-out", though annotated int
    expected = parse(f"\\boxed{{{gold}}}", parsing_timeout=no_alarm)
    found = parse(f"\\boxed{{{answer}}}", parsing_timeout=no_alarm)
    if not expected:
        return "unparsed"
    if not found or not verify(expected, found, timeout_seconds=no_alarm):
        return "different"
    return "different" if numerically_equal(expected[0], found[0]) is False else "same"


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
