"""What a search for preference pairs shows: how many were found where, why not more, and how far apart they are."""

import json
from collections import Counter
from typing import Any, cast

from nanbeige_core.contract import Gain, Outcome, Section
from nanbeige_core.evals.statistics import paired_gain
from nanbeige_core.report.counting import cross_rows
from nanbeige_core.sft.chunks import Row


def pairs_report(results: list[Row], *, validation: int) -> Outcome:
    """Build the stage's outcome; the gain is over prompts whose answers were verified."""
    reasons = Counter(result["reason"] for result in results)
    pairs = sum(len(result["pairs"]) for result in results)
    gain = _verified_gain(results)
    compared = [result for result in results if "gaps" in result]
    domains = cross_rows(((result["domain"], result["reason"]) for result in results), "domain", "prompts")
    sections = [Section(title="Prompts by domain and reason", table=domains), _examples(results)]
    if compared:
        sections.insert(1, _judged_section(compared))
    return Outcome(
        summary=f"{pairs} pairs of {len(results)} prompts: the teacher right and the student wrong, by verification "
        "or by far in a judge's eyes.",
        counts={
            "prompts": len(results),
            "pairs": pairs,
            "validation_prompts": validation,
            **{f"prompts_{name}": number for name, number in sorted(reasons.items())},
        },
        metrics={"teacher_correct": gain.after, "student_correct": gain.before} if gain else {},
        gain=gain,
        sections=sections,
    )


def _verified_gain(results: list[Row]) -> Gain | None:
    rates = [(_rate(result["student"]), _rate(result["teacher"])) for result in results]
    measured = [rate for rate in rates if None not in rate]
    if not measured:
        return None
    before, after = ([cast(float, value) for value in column] for column in zip(*measured, strict=True))
    return paired_gain("correct share, negatives' policy -> positives' policy", before, after)


def _judged_section(compared: list[Row]) -> Section:
    rows: list[dict[str, Any]] = []
    for domain in sorted({result["domain"] for result in compared}):
        gaps: list[list[float]] = [gap for result in compared if result["domain"] == domain for gap in result["gaps"]]
        agreed = [(first > 0.5) == (second > 0.5) for first, second in gaps]
        rows.append(
            {
                "domain": domain,
                "comparisons": len(gaps),
                "mean probability that the teacher's is better": _mean([sum(gap) / 2 for gap in gaps]),
                "both orders agree": _mean([float(each) for each in agreed]),
                "pairs": sum(len(result["pairs"]) for result in compared if result["domain"] == domain),
            }
        )
    return Section(
        title="Answers that a judge compared",
        text="Each comparison was made in both orders; a pair needs the least probability in both.",
        table=rows,
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _rate(outcomes: list[str]) -> float | None:
    """Return the share of right answers among the scored ones, None when none was scored."""
    scored = [outcome for outcome in outcomes if outcome != "unscored"]
    return scored.count("correct") / len(scored) if scored else None


def _examples(results: list[Row]) -> Section:
    shown = [result for result in results if result["pairs"]][:3]
    return Section(
        title="Examples",
        table=[
            {
                "prompt": result["prompt_id"],
                "chosen": json.dumps(result["pairs"][0][0], ensure_ascii=False)[:300],
                "rejected": json.dumps(result["pairs"][0][1], ensure_ascii=False)[:300],
            }
            for result in shown
        ],
    )
