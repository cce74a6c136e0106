"""The evaluation as a matrix of checkpoints and suites, and the same problems answered by every checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.blocks import Card, Chip, tone_of

REPORT = "report.json"
_ANSWER_CHARACTERS = 700


@dataclass(frozen=True)
class Cell:
    """One score with its standard error; `best` marks the highest of its suite."""

    mean: float
    error: float | None
    best: bool


@dataclass(frozen=True)
class Matrix:
    """Scores: one row a checkpoint, one column a suite (`None` where not measured)."""

    suites: list[tuple[str, int]]
    rows: list[tuple[str, list[Cell | None]]]


def score_matrix(files: ArtifactFiles) -> Matrix | None:
    """Return the matrix of an evaluation artifact, None when its report holds no results."""
    results: list[dict[str, Any]] = files.read_json(REPORT).get("results", [])
    if not results:
        return None
    suites = list(dict.fromkeys(result["suite"] for result in results))
    checkpoints = list(dict.fromkeys(result["checkpoint"] for result in results))
    by_key = {(result["checkpoint"], result["suite"]): result for result in results}
    best = {suite: max(r["mean"] for r in results if r["suite"] == suite) for suite in suites}

    def cell(checkpoint: str, suite: str) -> Cell | None:
        result = by_key.get((checkpoint, suite))
        if result is None:
            return None
        mean = float(result["mean"])
        return Cell(mean, result.get("standard_error"), best=mean == best[suite] > 0)

    problems = {result["suite"]: int(result.get("problems", 0)) for result in results}
    return Matrix(
        [(suite, problems[suite]) for suite in suites],
        [(checkpoint, [cell(checkpoint, suite) for suite in suites]) for checkpoint in checkpoints],
    )


def compared_answers(files: ArtifactFiles, prompts: Mapping[str, str]) -> list[Card]:
    """Return, for each suite, one problem with the first answer of every checkpoint.

    The problem is the first in the report that any checkpoint solved and any other did not, else the first.
    """
    attempts: list[dict[str, Any]] = files.read_json(REPORT).get("attempts", [])
    cards: list[Card] = []
    for suite in dict.fromkeys(attempt["suite"] for attempt in attempts):
        by_problem: dict[str, dict[str, dict[str, Any]]] = {}
        for attempt in attempts:
            if attempt["suite"] == suite:
                by_problem.setdefault(attempt["prompt_id"], {}).setdefault(attempt["checkpoint"], attempt)
        chosen = next((p for p, answers in by_problem.items() if _disagree(answers)), next(iter(by_problem)))
        answers = by_problem[chosen]
        texts = {"prompt": prompts.get(chosen, chosen)}
        texts |= {name: str(answer["text"])[:_ANSWER_CHARACTERS] for name, answer in answers.items()}
        verdicts = {name: _verdict(answer) for name, answer in answers.items()}
        cards.append(Card(texts, [Chip("suite", suite)], verdicts))
    return cards


def problem_ids(files: ArtifactFiles) -> set[str]:
    """Return the ids of every problem the evaluation kept answers of."""
    return {attempt["prompt_id"] for attempt in files.read_json(REPORT).get("attempts", [])}


def _disagree(answers: Mapping[str, Mapping[str, Any]]) -> bool:
    return {"correct", "wrong"} <= {answer["outcome"] for answer in answers.values()}


def _verdict(answer: Mapping[str, Any]) -> Chip:
    outcome, reason = str(answer["outcome"]), str(answer.get("reason", ""))
    return Chip("", outcome if outcome == "correct" or not reason else f"{outcome}: {reason}", tone_of(outcome))
