"""What a refinement run shows: how much drafts improved, what was rejected and why, and a few traces."""

import json
from collections import Counter
from typing import Any

import numpy as np

from nanbeige_core.contract import Gain, Outcome, Section
from nanbeige_core.evals.statistics import paired_difference
from nanbeige_core.report.counting import count_rows, cross_rows
from nanbeige_core.sft.chunks import Row


def refinement_report(results: list[Row], mixed: list[Row], *, validation: int) -> Outcome:
    """Build the stage's outcome; the gain is the checklist score of the current model's draft against the best."""
    kept = [result for result in results if result["reason"] == "kept"]
    reasons = Counter(result["reason"] for result in results)
    traces = [result["trace"] for result in results]
    rounds = Counter(trace["rounds"] for trace in traces)
    return Outcome(
        summary=f"{len(kept)} of {len(results)} instructions refined to acceptance; {len(mixed)} samples after mixing.",
        counts={
            "instructions": len(results),
            "samples": len(mixed),
            "repeated": sum(row["copy"] > 0 for row in mixed),
            "validation_samples": validation,
            **{f"instructions_{name}": number for name, number in sorted(reasons.items())},
            **{f"finished_after_round_{number}": count for number, count in sorted(rounds.items())},
        },
        metrics={"chain_gain_nats_per_token": _mean([trace["chain_gain"] for trace in traces])},
        gain=_score_gain(traces),
        sections=[
            Section(title="Instructions by domain", table=_domain_rows(results, mixed)),
            Section(title="Where the best draft came from", table=count_rows(_origins(kept), "origin", "count")),
            Section(title="Chains of thought", table=_chain_rows(traces)),
            Section(
                title="Examples",
                table=[
                    {
                        "prompt": row["prompt"],
                        "reasoning": row["reasoning"],
                        "answer": row["answer"][:300],
                        "drafts": json.dumps(row["trace"]["drafts"], ensure_ascii=False)[:400],
                    }
                    for row in kept[:3]
                ],
            ),
        ],
    )


def _score_gain(traces: list[dict[str, Any]]) -> Gain | None:
    paired = [trace for trace in traces if trace["student_score"] is not None]
    if not paired:
        return None
    before = [trace["student_score"] for trace in paired]
    after = [trace["best_score"] for trace in paired]
    interval = paired_difference(before, after)
    return Gain(
        metric="checklist score, the current model's draft -> best draft (0 to 10)",
        before=float(np.mean(before)),
        after=float(np.mean(after)),
        n=len(paired),
        low=interval.low,
        high=interval.high,
    )


def _domain_rows(results: list[Row], mixed: list[Row]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for row in cross_rows(((result["domain"], result["reason"]) for result in results), "domain", "instructions"):
        traces = [result["trace"] for result in results if result["domain"] == row["domain"]]
        scores = {
            "student score": _mean([trace["student_score"] for trace in traces]),
            "best score": _mean([trace["best_score"] for trace in traces]),
        }
        rows.append({**row, **scores, "samples": sum(one["domain"] == row["domain"] for one in mixed)})
    return rows


def _origins(kept: list[Row]) -> Counter[str]:
    return Counter(f"{result['domain']}: {result['trace']['best_origin']}" for result in kept)


def _chain_rows(traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    accepted = Counter(f"answer with chain: {trace['chain_origin']}" for trace in traces if trace["chain_origin"])
    rejected = Counter(f"chain rejected: {reason}" for trace in traces for reason in trace["chain_rejections"])
    return count_rows(accepted + rejected, "chain", "count")


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
