"""What became of faults: one line of a file for each, and the tables that sum them up."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

MENDED, MISSED, SKIPPED = "mended", "ended before the fault", "skipped"
_COLUMNS = (MENDED, MISSED, SKIPPED)


@dataclass(frozen=True)
class Result:
    """What became of one fault: MENDED, MISSED, SKIPPED, or what is wrong."""

    kind: str
    stage: str
    outcome: str
    seed: int = 0
    trial: int = 0
    """Which trial of this kind, stage and seed it belongs to: one trial may break a run several times."""

    @property
    def good(self) -> bool:
        """Return whether nothing is wrong."""
        return self.outcome.startswith(_COLUMNS)

    @property
    def broken(self) -> bool:
        """Return whether the fault came while the stage was being made."""
        return not self.outcome.startswith(MISSED)


def read_results(path: Path) -> list[Result]:
    """Return the results that earlier calls noted in a file, none when there is no file."""
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def note_result(path: Path, result: Result) -> None:
    """Append a result to a file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(result)) + "\n")


def fault_table(results: list[Result]) -> str:
    """Return the results as a markdown table, and below it whatever is wrong."""
    heading = "| fault | times | mended | ended before it | skipped | wrong |"
    lines = [heading, "| --- |" + " ---: |" * 5]
    for kind in _kinds(results):
        counted = Counter(_column(result) for result in results if result.kind == kind)
        times = sum(result.kind == kind and result.broken for result in results)
        cells = [times, *(counted[column] for column in (*_COLUMNS, "wrong"))]
        lines.append(f"| {kind} | " + " | ".join(map(str, cells)) + " |")
    wrong = [f"- {result.kind}, {result.stage}: {result.outcome}" for result in results if not result.good]
    return "\n".join([*lines, *wrong])


def stage_table(results: list[Result]) -> str:
    """Return how often each stage was broken by each kind, as a markdown table."""
    kinds = _kinds(results)
    counted = Counter((result.stage, result.kind) for result in results if result.broken)
    lines = ["| stage | " + " | ".join(kinds) + " |", "| --- |" + " ---: |" * len(kinds)]
    lines += [
        f"| {stage} | " + " | ".join(str(counted[stage, kind]) for kind in kinds) + " |"
        for stage in dict.fromkeys(result.stage for result in results)
    ]
    return "\n".join(lines)


def _kinds(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(result.kind for result in results))


def _column(result: Result) -> str:
    return next((word for word in _COLUMNS if result.outcome.startswith(word)), "wrong")
