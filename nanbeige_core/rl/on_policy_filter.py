"""Keep the problems a policy neither always nor never solves (report section 3.3: strictly between 10 % and 90 %).

The unfiltered rates stay in their own artifact; this one is cheap to make again with another band.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.recipe.configs.rl import OnPolicyFilterConfig
from nanbeige_core.rl.prompts import FILE, RATES, STAGE_DOMAINS

OTHER_BANDS = ((0.20, 0.80), (0.10, 0.90), (0.05, 0.95), (0.02, 0.98), (0.0, 1.0))
"""Bands that a result, empty or not, is compared with."""


class Rate(NamedTuple):
    """What was measured for one prompt."""

    prompt_id: str
    samples: int
    correct: int
    unscored: int
    rate: float | None
    truncated: int = 0
    """Responses that ran out of tokens; they count as wrong."""


def decide(rate: Rate, *, low: float, high: float, strict: bool) -> str:
    """Return "kept", or why the prompt leaves: too_hard, too_easy, unscored.

    A prompt with any unscored response leaves: its rate would be over other samples than its neighbours'.
    """
    if rate.rate is None or rate.unscored:
        return "unscored"
    if rate.rate < low or (strict and rate.rate == low):
        return "too_hard"
    if rate.rate > high or (strict and rate.rate == high):
        return "too_easy"
    return "kept"


def keep_probability(true_rate: float, samples: int, *, low: float, high: float, strict: bool = True) -> float:
    """Return the exact binomial probability that a prompt of this true rate is kept."""
    kept = [
        correct
        for correct in range(samples + 1)
        if decide(Rate("", samples, correct, 0, correct / samples), low=low, high=high, strict=strict) == "kept"
    ]
    return float(stats.binom.pmf(kept, samples, true_rate).sum()) if kept else 0.0


def expected_outside(rates: Sequence[Rate], *, low: float, high: float) -> float:
    """Return how many of these kept prompts are expected to have a true rate outside the band.

    The posterior of a true rate is Beta(correct + 1, wrong + 1), from a uniform prior.
    """
    outside = 0.0
    for rate in rates:
        belief = stats.beta(rate.correct + 1, rate.samples - rate.correct + 1)
        outside += float(belief.cdf(low) + belief.sf(high))
    return outside


def read_rates(directory: Path) -> list[Rate]:
    """Read a PassRates artifact."""
    table = pq.read_table(directory / RATES, columns=list(Rate._fields))
    return [Rate(**row) for row in table.to_pylist()]


def run(job: Job) -> Outcome:
    """Write the kept prompts and every held-out row of the domain.

    Raises ValueError when fewer than `minimum` prompts stay, saying what other bands would keep.
    """
    config: OnPolicyFilterConfig = job.config
    rates = read_rates(job.inputs["pass_rates"].path)
    decisions = {rate.prompt_id: decide(rate, low=config.low, high=config.high, strict=config.strict) for rate in rates}
    kept = [rate for rate in rates if decisions[rate.prompt_id] == "kept"]
    if len(kept) < config.minimum:
        raise ValueError(_empty(job.stage, config, rates, len(kept)))
    problems = pq.read_table(job.inputs["problems"].path / FILE)
    heldout = _write(job.work, problems, config, {rate.prompt_id for rate in kept})
    counts = {reason: sum(d == reason for d in decisions.values()) for reason in ("too_hard", "too_easy", "unscored")}
    cut = [r for r in rates if decisions[r.prompt_id] == "too_hard" and r.truncated == r.samples - r.correct > 0]
    leaked = expected_outside(kept, low=config.low, high=config.high)
    mean = sum(rate.rate or 0.0 for rate in kept) / len(kept)
    return Outcome(
        summary=(
            f"{len(kept)} of {len(rates)} {config.domain} prompts have a pass rate between {config.low} and "
            f"{config.high}; about {leaked:.1f} of them are expected to lie outside by chance of the sample."
        ),
        counts={
            "read": len(rates),
            "kept": len(kept),
            "heldout": heldout,
            **{f"dropped_{k}": v for k, v in counts.items()},
            # these might be solved in a longer window: hard is not what was measured
            "too_hard_only_by_truncation": len(cut),
            "truncated_responses": sum(rate.truncated for rate in rates),
        },
        metrics={"kept_share": len(kept) / len(rates), "kept_mean_rate": mean, "expected_outside": leaked},
        sections=_sections(config, rates, decisions),
    )


def _write(work: Path, problems: pa.Table, config: OnPolicyFilterConfig, kept: set[str]) -> int:
    """Write kept prompts and held-out rows of the domain with all their columns; return how many are held out."""
    domains = STAGE_DOMAINS[config.domain]
    rows = zip(*(problems[name].to_pylist() for name in ("id", "split", "domain")), strict=True)
    choices = [
        "kept" if id_ in kept else "heldout" if split == "heldout" and domain in domains else ""
        for id_, split, domain in rows
    ]
    pq.write_table(problems.filter(pa.array([bool(choice) for choice in choices])), work / FILE)
    return choices.count("heldout")


def _empty(stage: str, config: OnPolicyFilterConfig, rates: Sequence[Rate], kept: int) -> str:
    others = [
        f"({low}, {high}) {sum(decide(r, low=low, high=high, strict=True) == 'kept' for r in rates)}"
        for low, high in OTHER_BANDS
    ]
    zero = sum(rate.rate == 0 for rate in rates)
    one = sum(rate.rate == 1 for rate in rates)
    return (
        f"{stage}: {kept} of {len(rates)} prompts lie in the band {config.low} to {config.high}, expected at least "
        f"{config.minimum}: RL would have nothing to learn from. {zero} are never solved, {one} always. Other strict "
        f"bands would keep: {', '.join(others)}. Widen on_policy_filter.low/high, raise pass_rates.samples, or give "
        "easier (or harder) problems."
    )


def _sections(config: OnPolicyFilterConfig, rates: Sequence[Rate], decisions: dict[str, str]) -> list[Section]:
    bins = {"kept": [0.0] * 21, "dropped": [0.0] * 21}
    for rate in rates:
        if rate.rate is not None:
            bins["kept" if decisions[rate.prompt_id] == "kept" else "dropped"][round(rate.rate * 20)] += 1
    samples = max((rate.samples for rate in rates), default=1)
    truths = (0.01, 0.05, 0.10, 0.20, 0.50, 0.80, 0.90, 0.95, 0.99)
    table = [
        {
            "true rate": truth,
            "probability kept": round(
                keep_probability(truth, samples, low=config.low, high=config.high, strict=config.strict), 3
            ),
        }
        for truth in truths
    ]
    plot = Plot(
        kind="bar",
        x=[f"{index / 20:.2f}" for index in range(21)],
        series=bins,
        x_label="measured pass rate",
        y_label="prompts",
    )
    return [
        Section(title="Pass rates and the band", plot=plot),
        Section(
            title="How sharp the band is",
            text=f"Exact binomial probability of keeping a prompt of a given true rate, {samples} samples.",
            table=table,
        ),
        Section(
            title="Other bands",
            text="What each strict band would keep, and how many of those are expected to lie outside it by chance.",
            table=[_band_row(rates, low, high) for low, high in OTHER_BANDS],
        ),
    ]


def _band_row(rates: Sequence[Rate], low: float, high: float) -> dict[str, object]:
    kept = [rate for rate in rates if decide(rate, low=low, high=high, strict=True) == "kept"]
    outside = expected_outside(kept, low=low, high=high)
    return {"band": f"{low:g} to {high:g}", "kept": len(kept), "expected outside": round(outside, 1)}
