"""What an evaluation reports: the table of scores, every response, and the gain from first to last checkpoint.

Standard errors are clustered by problem (arXiv 2411.00640); the gain is a paired difference over problems.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nanbeige_core.contract import Outcome, Plot, Section
from nanbeige_core.evals.exact_match import Scores
from nanbeige_core.evals.statistics import Estimate, mean_with_standard_error, paired_gain


class Result(NamedTuple):
    """What one checkpoint scored on one suite."""

    checkpoint: str
    suite: str
    scores: Scores

    @property
    def estimate(self) -> Estimate:
        """Return mean and standard error over scored responses, clustered by problem."""
        scored = [a for a in self.scores.attempts if a.outcome != "unscored"]
        if not scored:
            return Estimate(0.0, float("inf"), 0, 0)
        return mean_with_standard_error([float(a.outcome == "correct") for a in scored], [a.prompt_id for a in scored])

    def row(self) -> dict[str, Any]:
        """Return the result as a table row."""
        estimate = self.estimate
        attempts = self.scores.attempts
        return {
            "checkpoint": self.checkpoint,
            "suite": self.suite,
            "mean": round(estimate.mean, 4),
            "standard_error": round(estimate.standard_error, 4),
            "problems": len(self.scores.values),
            "responses": len(attempts),
            "truncated": self.scores.truncated,
            "unscored": self.scores.count("unscored"),
            "too_long": sum(a.tokens == 0 for a in attempts),
        }


def write_report(path: Path, rows: Sequence[dict[str, Any]], results: Sequence[Result]) -> None:
    """Write the table and every response, so that any number can be looked into."""
    content = {
        "results": list(rows),
        "attempts": [
            {"checkpoint": result.checkpoint, "suite": result.suite, **attempt._asdict()}
            for result in results
            for attempt in result.scores.attempts
        ],
    }
    # infinity (one problem alone has no error) is not JSON
    text = json.dumps(content, ensure_ascii=False).replace("Infinity", "null")
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def to_outcome(suites: Sequence[str], results: Sequence[Result], names: Sequence[str]) -> Outcome:
    """Return the stage's outcome; `names` are the checkpoints in table order, suites without problems are left out."""
    by_key = {(result.checkpoint, result.suite): result for result in results}
    suites = [suite for suite in suites if by_key[names[0], suite].scores.values]
    first = [value for suite in suites for value in by_key[names[0], suite].scores.values]
    last = [value for suite in suites for value in by_key[names[-1], suite].scores.values]
    mean = {name: _macro(by_key, name, suites) for name in names}
    return Outcome(
        summary=(
            f"{len(names)} checkpoints on {len(first)} problems in {len(suites)} suites: mean over problems "
            f"{sum(first) / len(first):.3f} for {names[0]}, {sum(last) / len(last):.3f} for {names[-1]}."
        ),
        counts={
            "checkpoints": len(names),
            "problems": len(first),
            "responses": sum(len(result.scores.attempts) for result in results),
            "truncated": sum(result.scores.truncated for result in results),
            "unscored": sum(result.scores.count("unscored") for result in results),
        },
        metrics={
            **{f"{result.checkpoint}.{result.suite}": result.estimate.mean for result in results},
            **{f"{name}.mean_of_suites": value for name, value in mean.items()},
        },
        gain=paired_gain("share solved (mean over problems of all suites)", first, last),
        sections=_sections(by_key, names, suites, results),
    )


def _macro(by_key: dict[tuple[str, str], Result], name: str, suites: Sequence[str]) -> float:
    return sum(by_key[name, suite].estimate.mean for suite in suites) / len(suites)


def _sections(
    by_key: dict[tuple[str, str], Result], names: Sequence[str], suites: Sequence[str], results: Sequence[Result]
) -> list[Section]:
    table: list[dict[str, Any]] = []
    for suite in suites:
        cells = {name: by_key[name, suite].estimate for name in names}
        scores = {name: f"{cell.mean:.3f} ± {cell.standard_error:.3f}" for name, cell in cells.items()}
        table.append({"suite": suite, "problems": len(by_key[names[0], suite].scores.values), **scores})
    plot = Plot(
        kind="bar",
        x=list(suites),
        series={name: [by_key[name, suite].estimate.mean for suite in suites] for name in names},
        x_label="suite",
        y_label="share solved",
    )
    examples = [
        {"suite": suite, "problem": attempt.prompt_id, "response": attempt.text[:200], "outcome": attempt.outcome,
         "reason": attempt.reason}
        for suite in suites
        for attempt in by_key[names[-1], suite].scores.attempts[:3]
    ]  # fmt: skip
    return [
        Section(
            title="Scores", text="Mean over responses ± standard error clustered by problem.", table=table, plot=plot
        ),
        Section(title="Counts", table=[result.row() for result in results]),
        Section(title=f"Responses of {names[-1]}", table=examples),
    ]
