"""`python -m nanbeige_core.faults`: break a tiny recipe in many ways and print the fault table.

Seeded: the same seed breaks the same stages at the same moments of their work, as far as the machine's speed allows.
"""

import argparse
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

from nanbeige_core.faults.kinds import KINDS, Kind
from nanbeige_core.faults.laboratory import Laboratory
from nanbeige_core.faults.results import Result, fault_table, note_result, read_results, stage_table

PROGRAM = "python -m nanbeige_core.faults"
LONG = {"worker killed": 200, "run killed": 52}
LONG_OTHERS = 20
_MOST_TRIES = 3


def break_runs(
    laboratory: Laboratory,
    times: Mapping[str, int],
    seed: int,
    *,
    kinds: Mapping[str, Kind] = KINDS,
    earlier: Iterable[Result] = (),
    note: Callable[[Result], None] = lambda result: None,
    seconds: float = math.inf,
) -> list[Result]:
    """Break runs until each kind has come `times` often, over all stages alike; return what became of each.

    `earlier` results count; `note` is given each new one. No trial begins after `seconds`.
    """
    results = list(earlier)
    deadline = time.monotonic() + seconds
    for kind, count in times.items():
        of_kind = [result for result in results if result.kind == kind]
        while sum(result.broken for result in of_kind) < count and len(of_kind) < count * _MOST_TRIES:
            if time.monotonic() > deadline:
                return results
            stage = min(laboratory.stages, key=lambda name: _share(of_kind, name))
            trial = len({result.trial for result in of_kind if (result.stage, result.seed) == (stage, seed)})
            outcomes = kinds[kind](laboratory, stage, random.Random(f"{seed}:{kind}:{stage}:{trial}"))
            new = [Result(kind, stage, outcome, seed, trial) for outcome in _listed(outcomes)]
            if not all(result.good for result in new):
                print(f"{kind}, {stage}: kept in {laboratory.put_aside()}", file=sys.stderr)
            laboratory.clear()
            for result in new:
                note(result)
            of_kind += new
            results += new
    return results


def _share(results: list[Result], stage: str) -> float:
    """Return how often a stage has been broken; a fault that came too late counts for less, so that it is repeated."""
    return sum(1 if result.broken else 1 / _MOST_TRIES for result in results if result.stage == stage)


def _listed(outcomes: str | list[str]) -> list[str]:
    return [outcomes] if isinstance(outcomes, str) else outcomes


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
    parser.add_argument("--results", type=Path, default=None, help="Note every result here, and go on from those.")
    parser.add_argument("--seconds", type=float, default=math.inf, help="Begin nothing new after so long.")
    given = parser.parse_args()
    times = {kind: long.get(kind, LONG_OTHERS) if given.long else given.times for kind in given.kinds}
    own = tempfile.TemporaryDirectory() if given.folder is None else nullcontext(given.folder)
    earlier = read_results(given.results) if given.results else []
    with own as folder, Laboratory(Path(folder), until=given.until) as laboratory:

        def note(result: Result) -> None:
            print(f"{result.kind:20} {result.stage:24} {result.outcome}", file=sys.stderr, flush=True)
            if given.results:
                note_result(given.results, result)

        results = break_runs(
            laboratory, times, given.seed, kinds=kinds, earlier=earlier, note=note, seconds=given.seconds
        )
    print(f"{fault_table(results)}\n\n{stage_table(results)}")
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
