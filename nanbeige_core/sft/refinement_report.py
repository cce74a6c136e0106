"""What a refinement run shows: how much drafts improved, what was rejected and why, and a few traces."""

import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from nanbeige_core.contract import Gain, Outcome, Section
from nanbeige_core.evals.statistics import paired_gain
from nanbeige_core.report.counting import count_rows, cross_rows
from nanbeige_core.sft.chunks import Row

HALF = 5.0
"""From this score on a judge is taken to call a draft right."""


class Usable(NamedTuple):
    """What the current model's first draft and the best one are worth as something to train on."""

    before: float
    after: float


def refinement_report(results: list[Row], mixed: list[Row], *, validation: int) -> Outcome:
    """Build the stage's outcome; the gain is the checklist score of the current model's draft against the best."""
    kept = [result for result in results if result["reason"] == "kept"]
    reasons = Counter(result["reason"] for result in results)
    traces = [result["trace"] for result in results]
    rounds = Counter(trace["rounds"] for trace in traces)
    changed = improvements(traces)
    return Outcome(
        summary=f"{len(kept)} of {len(results)} instructions refined to acceptance; {len(mixed)} samples after mixing.",
        counts={
            "instructions": len(results),
            "samples": len(mixed),
            "repeated": sum(row["copy"] > 0 for row in mixed),
            "validation_samples": validation,
            **{f"instructions_{name}": number for name, number in sorted(reasons.items())},
            **{f"finished_after_round_{number}": count for number, count in sorted(rounds.items())},
            "drafts": sum(len(trace["drafts"]) for trace in traces),
            "drafts_improved": len(changed),
        },
        metrics={
            "chain_gain_nats_per_token": _mean([trace["chain_gain"] for trace in traces]),
            "mean_improvement": _mean(changed),
            **{f"agrees_with_verifier_{name}": share for name, share in agreement(traces).items()},
        },
        gain=score_gain(traces),
        sections=[
            Section(title="Instructions by domain", table=_domain_rows(results, mixed)),
            Section(
                title="What refinement changed",
                text="The current model's first draft against the best one; improvement is in points of 10. Each other "
                "judge is shown with how often it sides with the verifier, 5 or more counting as right. "
                "What the verifier calls wrong scores 0 whatever they say; here a draft that is cut off, or misses "
                "what its instruction demands, counts as 0 too, and one without a verdict is left out.",
                table=_changes(results),
            ),
            Section(title="Rejected, and why", table=_rejections(results, traces)),
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


def usable(trace: dict[str, Any]) -> Usable | None:
    """Return both drafts' scores; None without a draft of the current model, or where the verifier came to no verdict.

    A draft that may not be trained on, being cut off or missing what its instruction demands, is worth 0, as one that
    the verifier calls wrong is: by its judges' score alone it could stand above the draft that was kept.
    """
    drafts: list[dict[str, Any]] = trace["drafts"]
    first = next((draft for draft in drafts if draft["origin"] == "student"), None)
    if first is None:
        return None
    best = max(drafts, key=lambda draft: (not draft["vetoed"], draft["score"]))
    if "unscored" in (first["verified"], best["verified"]):
        return None
    return Usable(*(0.0 if draft["vetoed"] else draft["score"] for draft in (first, best)))


def score_gain(traces: list[dict[str, Any]]) -> Gain | None:
    """Return the gain from the current model's first draft to the best one; None where none can be compared."""
    paired = [found for trace in traces if (found := usable(trace))]
    if not paired:
        return None
    before, after = (list(column) for column in zip(*paired, strict=True))
    return paired_gain("usable checklist score, the current model's draft -> best draft (0 to 10)", before, after)


def improvements(traces: list[dict[str, Any]]) -> list[float | None]:
    """Return by how much the best draft beats the current model's first one, for each instruction it does."""
    paired = [found for trace in traces if (found := usable(trace))]
    return [after - before for before, after in paired if after > before]


def agreement(traces: list[dict[str, Any]]) -> dict[str, float]:
    """Return for each judge how often it sides with the verifier, over drafts that both have judged."""
    sided: dict[str, list[bool]] = {}
    for draft in (draft for trace in traces for draft in trace["drafts"]):
        if draft["verified"] not in ("correct", "wrong"):
            continue
        for name, score in draft["judges"].items():
            if name != "verifier" and score is not None:
                sided.setdefault(name, []).append((score >= HALF) == (draft["verified"] == "correct"))
    return {name: float(np.mean(values)) for name, values in sided.items()}


def _changes(results: list[Row]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for domain in sorted({result["domain"] for result in results}):
        traces = [result["trace"] for result in results if result["domain"] == domain]
        changed = improvements(traces)
        rows.append(
            {
                "domain": domain,
                "instructions": len(traces),
                "compared with a draft of the current model": sum(usable(trace) is not None for trace in traces),
                "improved": len(changed),
                "mean improvement": _mean(changed),
                **{f"{name} agrees": share for name, share in sorted(agreement(traces).items())},
            }
        )
    return rows


def _rejections(results: list[Row], traces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    drafts = Counter(
        f"draft fails {check}" for trace in traces for draft in trace["drafts"] for check in draft["failed"]
    )
    chains = Counter(f"chain: {reason}" for trace in traces for reason in trace["chain_rejections"])
    whole = Counter(f"instruction: {result['reason']}" for result in results if result["reason"] != "kept")
    return [row for counted in (whole, drafts, chains) for row in count_rows(counted, "reason", "count")]


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
    return count_rows(accepted, "chain", "count")


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
