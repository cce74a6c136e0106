"""How often the verifier of STEM answers is wrong, on labelled tricky pairs, against math-verify alone.

    python benchmarks/verifier_accuracy.py [--mistakes] [--workers 2]

Prints false accepts, false rejects and unscored pairs by category, and one line for math-verify without the ladder
in front (its default extraction and comparison) on the same pairs. Exit status 1 when a hostile input is accepted.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanbeige_core.verify.accuracy import (
    Accuracy,
    LabelledPair,
    judge_pairs,
    mistakes,
    read_labelled_pairs,
    tabulate,
)
from nanbeige_core.verify.math_verifier import open_math_verifier
from nanbeige_core.verify.verdict import Verdict

LABELS = Path(__file__).parent.parent / "tests" / "verify" / "labelled_pairs.tsv"
SECONDS = 2


def judge_by_math_verify(pair: LabelledPair) -> Verdict:
    """Judge as most training loops do: parse both sides and compare, in this process."""
    from math_verify import parse, verify

    try:
        expected = parse(f"${pair.gold}$", parsing_timeout=SECONDS)
        accepted = verify(expected, parse(pair.response, parsing_timeout=SECONDS), timeout_seconds=SECONDS)
    except Exception as error:
        return Verdict("unscored", type(error).__name__, "math-verify")
    return Verdict("correct" if accepted else "wrong", "", "math-verify")


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mistakes", action="store_true", help="list every pair that was not judged as labelled")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    pairs = read_labelled_pairs(LABELS)
    with open_math_verifier(workers=arguments.workers) as verifier:
        judge_pairs(verifier, pairs[:1])
        started = time.monotonic()
        verdicts = judge_pairs(verifier, pairs)
        seconds = time.monotonic() - started
    rows = tabulate(pairs, verdicts)
    alone = tabulate(pairs, [judge_by_math_verify(pair) for pair in pairs])[-1]
    console = Console(width=140)
    table = Table(title=f"{len(pairs)} labelled pairs, {seconds:.1f} s with {arguments.workers} workers")
    for column in (*Accuracy._fields, "accuracy"):
        table.add_column(column.replace("_", " "))
    for row in [*rows, alone._replace(category="all, math-verify alone")]:
        table.add_row(*map(str, row), f"{row.right / row.pairs:.1%}")
    console.print(table)
    if arguments.mistakes:
        for pair, verdict in mistakes(pairs, verdicts):
            console.print(
                f"{pair.category} {pair.language}: {pair.answer[:60]!r} for {pair.gold!r} is {pair.label}, judged "
                f"{verdict.outcome} ({verdict.engine}: {verdict.reason[:60]})",
                markup=False,
                highlight=False,
            )
    accepted = sum(row.false_accepts for row in rows if row.category.startswith("hostile"))
    sys.exit(1 if accepted else 0)


if __name__ == "__main__":
    main()
