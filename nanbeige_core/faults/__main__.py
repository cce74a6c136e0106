"""`python -m nanbeige_core.faults`: break a tiny recipe in many ways and print the fault table.

Seeded: the same seed breaks the same stages at the same moments of their work, as far as the machine's speed allows.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from nanbeige_core.faults.kinds import KINDS, MENDED, MISSED, SKIPPED, Kind, Result
from nanbeige_core.faults.laboratory import Laboratory

PROGRAM = "python -m nanbeige_core.faults"
LONG = {"worker killed": 200}
LONG_OTHERS = 20


def break_runs(
    laboratory: Laboratory,
    times: Mapping[str, int],
    seed: int,
    *,
    kinds: Mapping[str, Kind] = KINDS,
    say: bool = True,
) -> list[Result]:
    """Break runs, each kind `times` often, over all stages in turn; return what became of each."""
    results: list[Result] = []
    for kind, count in times.items():
        for number in range(count):
            stage = laboratory.stages[number % len(laboratory.stages)]
            rng = random.Random(f"{seed}:{kind}:{number}")
            result = Result(kind, stage, kinds[kind](laboratory, stage, rng))
            results.append(result)
            if say:
                print(f"{kind:20} {stage:24} {result.outcome}", file=sys.stderr, flush=True)
    return results


def fault_table(results: list[Result]) -> str:
    """Return the results as a markdown table, and below it whatever is wrong."""
    heading = "| fault | times | mended | ended before it | skipped | wrong |"
    lines = [heading, "| --- |" + " ---: |" * 5]
    for kind in dict.fromkeys(result.kind for result in results):
        of_kind = [result for result in results if result.kind == kind]
        counted = Counter(
            next((word for word in (MENDED, MISSED, SKIPPED) if result.outcome.startswith(word)), "wrong")
            if result.good
            else "wrong"
            for result in of_kind
        )
        cells = [counted[MENDED], counted[MISSED], counted[SKIPPED], counted["wrong"]]
        lines.append(f"| {kind} | {len(of_kind)} | " + " | ".join(map(str, cells)) + " |")
    wrong = [f"- {result.kind}, {result.stage}: {result.outcome}" for result in results if not result.good]
    return "\n".join([*lines, *wrong])


def main(kinds: Mapping[str, Kind] = KINDS, long: Mapping[str, int] = LONG, *, program: str = PROGRAM) -> int:
    """Run the harness on `kinds`, by `--long` as often as `long` says; return 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--times", type=int, default=2, help="How often each kind.")
    counts = ", ".join(f"{count} of {kind}" for kind, count in long.items())
    parser.add_argument("--long", action="store_true", help=f"{counts}, {LONG_OTHERS} of each other kind.")
    parser.add_argument("--kinds", nargs="*", choices=list(kinds), default=list(kinds))
    parser.add_argument("--until", default=None, help="Only this stage and those before it.")
    parser.add_argument("--folder", type=Path, default=None, help="Keep the reference run here for a next call.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    times = {kind: long.get(kind, LONG_OTHERS) if given.long else given.times for kind in given.kinds}
    own = tempfile.TemporaryDirectory() if given.folder is None else nullcontext(given.folder)
    with own as folder, Laboratory(Path(folder), until=given.until) as laboratory:
        results = break_runs(laboratory, times, given.seed, kinds=kinds)
    if given.json:
        print(json.dumps([vars(result) for result in results], indent=1))
    else:
        print(fault_table(results))
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
