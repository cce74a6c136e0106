"""What a distillation run shows: both levels before and after, the terms over time, and the held-out gain."""

import math
from typing import Any, NamedTuple

from nanbeige_core.contract import Outcome, Plot, Section
from nanbeige_core.distill.pair_batches import PackedPairs
from nanbeige_core.evals.exact_match import Scores
from nanbeige_core.sft.heldout import domain_table, heldout_gain

TERMS = ("dpo", "positive", "negative")
MEASURES = {
    "dpo": "L_dpo",
    "positive_kl": "divergence from the teacher on y+ (nats per token)",
    "negative_kl": "divergence from the teacher on y- (nats per token)",
    "margin": "preference margin beyond the reference (nats per pair)",
    "accuracy": "pairs with a positive margin",
    "chosen_gain": "log-probability of y+ against the reference (nats)",
    "rejected_gain": "log-probability of y- against the reference (nats)",
}


class Evidence(NamedTuple):
    """Everything the report is made of; `before` and `after` are measured on the validation pairs."""

    packed: dict[str, PackedPairs]
    history: list[dict[str, Any]]
    before: dict[str, float]
    after: dict[str, float]
    scores_before: Scores
    scores_after: Scores


def dpd_report(evidence: Evidence) -> Outcome:
    """Build the stage's outcome."""
    train = evidence.packed["pairs"]
    before, after = evidence.before, evidence.after
    return Outcome(
        summary=f"Distilled over {len(train.pairs)} pairs in {len(evidence.history)} steps: divergence from the "
        f"teacher {before['positive_kl']:.3f} -> {after['positive_kl']:.3f} on y+ and "
        f"{before['negative_kl']:.3f} -> {after['negative_kl']:.3f} on y-.",
        counts={
            "pairs": len(train.pairs),
            "dropped_too_long": train.dropped,
            "sequences": len(train.bins),
            "validation_pairs": len(evidence.packed["validation"].pairs),
            "steps": len(evidence.history),
        },
        metrics={
            **{f"{name}_before": before[name] for name in MEASURES},
            **{f"{name}_after": after[name] for name in MEASURES},
            "first_step_dpo": evidence.history[0]["dpo"],
        },
        tokens=sum(pair.tokens for pair in train.pairs),
        gain=heldout_gain(evidence.scores_before, evidence.scores_after),
        sections=[
            _level_table(before, after),
            _terms_plot(evidence.history),
            _gradient_table(evidence.history),
            domain_table(evidence.scores_before, evidence.scores_after),
        ],
    )


def _level_table(before: dict[str, float], after: dict[str, float]) -> Section:
    falling = after["chosen_gain"] < 0 and after["rejected_gain"] < 0
    warning = "Both responses became less likely: likelihood displacement. " if falling else ""
    return Section(
        title="Validation pairs, before and after",
        text=f"{warning}The reference is the student before the first step.",
        table=[{"measure": text, "before": before[name], "after": after[name]} for name, text in MEASURES.items()],
    )


def _terms_plot(history: list[dict[str, Any]]) -> Section:
    names = ("dpo", "positive_kl", "negative_kl")
    return Section(
        title="The three terms while training",
        plot=Plot(
            kind="line",
            x=[point["step"] for point in history],
            series={name: [point[name] for point in history] for name in names},
            x_label="step",
            y_label="unweighted term",
        ),
    )


def _gradient_table(history: list[dict[str, Any]]) -> Section:
    measured = [point for point in history if f"{TERMS[0]}_gradient_squared" in point]
    return Section(
        title="Gradient norms of the weighted terms",
        text="At the logits, over the whole global batch: how much each term asks of the same outputs.",
        table=[
            {"step": point["step"], **{name: math.sqrt(point[f"{name}_gradient_squared"]) for name in TERMS}}
            for point in measured
        ],
    )
