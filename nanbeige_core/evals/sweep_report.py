"""The report of a sweep: every arm against the baseline, problem by problem, and no more said than that shows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.evals.comparison import (
    SEEDS_FOR_A_CLAIM,
    Comparison,
    Records,
    adjust_for_several,
    compare_arms,
    detectable_difference,
)
from nanbeige_core.evals.records import read_records
from nanbeige_core.recipe.configs.sweep import REPORT, SUMMARY, SweepReportConfig, input_name

ALPHA = 0.05
_SETTINGS = {
    "crossed": "The interval covers other problems and other seeds of this kind: every run measured the same problems.",
    "nested": "The interval covers other seeds; each seed measured its own problems.",
    "one seed": "One pair of runs: the interval covers other problems, not other seeds.",
}


class Verdict(NamedTuple):
    """One arm against the baseline, with its p-value adjusted for the number of arms."""

    arm: str
    found: Comparison
    adjusted_p: float
    detectable: float
    sentence: str

    @property
    def real(self) -> bool:
        """Tell whether the sweep shows a difference."""
        return is_shown(self.found, self.adjusted_p)


Runs = Mapping[tuple[str, int], Records]


def run(job: Job) -> Outcome:
    """Compare the arms and write report.json and summary.md."""
    config = cast(SweepReportConfig, job.config)
    runs: dict[tuple[str, int], Records] = {}
    for arm in config.arms:
        for seed in config.seeds:
            name = input_name(arm.name, seed)
            if name in job.inputs:
                runs[arm.name, seed] = read_records(job.inputs[name].path, config.measure)
    verdicts = judge_arms(config, runs)
    content = _content(config, runs, verdicts)
    (job.work / REPORT).write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    outcome = _outcome(config, runs, verdicts)
    (job.work / SUMMARY).write_text(_markdown(config, outcome), encoding="utf-8")
    return outcome


def is_shown(found: Comparison, adjusted_p: float) -> bool:
    """Tell whether a difference is shown: enough seeds for the interval to hold, and p below 0.05 after Holm."""
    return found.seeds >= SEEDS_FOR_A_CLAIM and adjusted_p < ALPHA


def judge_arms(config: SweepReportConfig, runs: Runs) -> list[Verdict]:
    """Compare every arm that has a pair of runs with the baseline; Holm's correction over these arms."""
    compared: dict[str, Comparison] = {}
    unchanged: dict[str, int] = {}
    for arm in config.arms:
        pairs = [
            (runs[config.baseline, seed], runs[arm.name, seed])
            for seed in config.seeds
            if (config.baseline, seed) in runs and (arm.name, seed) in runs
        ]
        if arm.name != config.baseline and pairs:
            compared[arm.name] = compare_arms(pairs)
            unchanged[arm.name] = sum(before == after for before, after in pairs)
    adjusted = adjust_for_several([found.p_value for found in compared.values()])
    return [
        _verdict(config, name, found, p, comparisons=len(compared), unchanged=unchanged[name])
        for (name, found), p in zip(compared.items(), adjusted, strict=True)
    ]


def _verdict(
    config: SweepReportConfig, arm: str, found: Comparison, p: float, *, comparisons: int, unchanged: int
) -> Verdict:
    detectable = detectable_difference(found, comparisons=comparisons)
    sentence = _sentence(config, arm, found, p, detectable, comparisons)
    if unchanged:
        sentence += (
            f" Under {unchanged} of {found.seeds} seeds {arm} and {config.baseline} measure the same on every problem: "
            "the change does not reach what is measured there."
        )
    return Verdict(arm, found, p, detectable, sentence)


def _sentence(
    config: SweepReportConfig, arm: str, found: Comparison, p: float, detectable: float, comparisons: int
) -> str:
    """Return one sentence that claims no more than the interval, the number of seeds and of arms allow."""
    numbers = f"{found.difference:+.4g}, 95 % interval {found.low:+.4g} to {found.high:+.4g}"
    base, corrected = config.baseline, f"corrected for {comparisons} comparisons" if comparisons > 1 else "two-sided"
    if found.seeds < SEEDS_FOR_A_CLAIM:
        return (
            f"{arm} minus {base} is {numbers} over {found.seeds} pair(s) of runs: too few to tell the recipe from the "
            f"luck of a seed, so nothing is claimed ({SEEDS_FOR_A_CLAIM} are needed)."
        )
    if is_shown(found, p):
        better = (found.difference > 0) == config.higher_is_better
        return f"{arm} is {'better' if better else 'worse'} than {base} here: {numbers} (p = {p:.2g}, {corrected})."
    power = f"a true difference of {detectable:.3g} would have been found 4 times of 5" if detectable else "all equal"
    if found.low > 0 or found.high < 0:
        return (
            f"No difference between {arm} and {base} is shown: {numbers} leaves 0 out when taken alone, but not "
            f"{corrected} (p = {p:.2g}); {power}."
        )
    return f"No difference between {arm} and {base} is shown: {numbers}; {power}."


def _outcome(config: SweepReportConfig, runs: Runs, verdicts: list[Verdict]) -> Outcome:
    shown = [verdict for verdict in verdicts if verdict.real]
    summary = " ".join(verdict.sentence for verdict in shown or verdicts)
    if shown and len(shown) < len(verdicts):
        summary += " For the other arms no difference is shown."
    if not verdicts:
        summary = f"No arm has a run to compare with {config.baseline}'s."
    if config.failures:
        summary += f" {len(config.failures)} of {len(config.arms) * len(config.seeds)} runs failed."
    finite = {
        f"{verdict.arm}.{name}": value
        for verdict in verdicts
        for name, value in (
            ("difference", verdict.found.difference),
            ("low", verdict.found.low),
            ("high", verdict.found.high),
            ("adjusted_p", verdict.adjusted_p),
            ("detectable", verdict.detectable),
        )
        if math.isfinite(value)
    }
    return Outcome(
        summary=summary,
        counts={
            "arms": len(config.arms),
            "seeds": len(config.seeds),
            "runs": len(runs),
            "failed": len(config.failures),
            "problems": max((verdict.found.problems for verdict in verdicts), default=0),
            "differences_shown": len(shown),
        },
        metrics=finite,
        sections=_sections(config, runs, verdicts),
    )


def _sections(config: SweepReportConfig, runs: Runs, verdicts: list[Verdict]) -> list[Section]:
    sections = [_difference_section(config, verdicts)] if verdicts else []
    sections.append(_arm_section(config, runs))
    if config.failures:
        sections.append(
            Section(
                title="Runs that failed",
                text="The other arms finished; nothing below rests on these runs. After mending the cause the same "
                "command makes only what is missing.",
                table=[failure.model_dump() for failure in config.failures],
            )
        )
    sections.append(Section(title="How to read this", text=_method(config, verdicts)))
    return sections


def _difference_section(config: SweepReportConfig, verdicts: list[Verdict]) -> Section:
    return Section(
        title=f"Difference from {config.baseline}",
        text=" ".join(verdict.sentence for verdict in verdicts),
        table=[
            {
                "arm": verdict.arm,
                "difference": _round(verdict.found.difference),
                "95 % low": _round(verdict.found.low),
                "95 % high": _round(verdict.found.high),
                "adjusted p": _round(verdict.adjusted_p),
                "found with 80 % power": _round(verdict.detectable),
                "seeds": verdict.found.seeds,
                "problems": verdict.found.problems,
                "shown": "yes" if verdict.real else "no",
            }
            for verdict in verdicts
        ],
        plot=Plot(
            kind="interval",
            x=[verdict.arm for verdict in verdicts],
            series={
                "difference": [verdict.found.difference for verdict in verdicts],
                "low": [verdict.found.low for verdict in verdicts],
                "high": [verdict.found.high for verdict in verdicts],
            },
            x_label=f"{config.measure}, minus {config.baseline}",
            y_label="arm",
        )
        if all(math.isfinite(verdict.found.low) for verdict in verdicts)
        else None,
    )


def _arm_section(config: SweepReportConfig, runs: Runs) -> Section:
    means = {key: sum(values.values()) / len(values) for key, values in runs.items() if values}
    rows: list[dict[str, Any]] = []
    for arm in config.arms:
        found = [means[arm.name, seed] for seed in config.seeds if (arm.name, seed) in means]
        rows.append(
            {
                "arm": arm.name,
                "changes": ", ".join(arm.set) or (f"seeds + {arm.seed_offset}" if arm.seed_offset else "none"),
                "mean": _round(sum(found) / len(found)) if found else "",
                **{f"seed {seed}": _round(means.get((arm.name, seed), math.nan)) for seed in config.seeds},
            }
        )
    direction = "higher" if config.higher_is_better else "lower"
    return Section(title=f"Mean {config.measure} of every run ({direction} is better)", table=rows)


def _method(config: SweepReportConfig, verdicts: list[Verdict]) -> str:
    layouts = list(dict.fromkeys(verdict.found.layout for verdict in verdicts))
    return (
        f"Measured at {config.stage}, profile {config.profile}. A seed sets {', '.join(config.seed_fields)} and "
        "nothing else; what all runs share is one artifact each, whose own luck is in every number. Differences are "
        f"paired by problem and by seed. {' '.join(_SETTINGS[layout] for layout in layouts)} p-values carry Holm's "
        "correction over the arms; intervals are for each arm alone. A difference is called shown when that p is below "
        f"{ALPHA} over at least {SEEDS_FOR_A_CLAIM} seeds."
    )


def _content(config: SweepReportConfig, runs: Runs, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "sweep": config.model_dump(mode="json"),
        "runs": [
            {"arm": arm, "seed": seed, "problems": len(values), "mean": sum(values.values()) / max(1, len(values))}
            for (arm, seed), values in runs.items()
        ],
        "comparisons": [
            {
                "arm": verdict.arm,
                **{name: _finite(value) for name, value in verdict.found._asdict().items()},
                "adjusted_p": verdict.adjusted_p,
                "detectable_difference": _finite(verdict.detectable),
                "shown": verdict.real,
                "sentence": verdict.sentence,
            }
            for verdict in verdicts
        ],
    }


def _markdown(config: SweepReportConfig, outcome: Outcome) -> str:
    """Return the part of the report that the documentation shows."""
    parts = [f"## {config.title}", outcome.summary]
    for section in outcome.sections:
        if not section.table:
            continue
        columns = list(dict.fromkeys(key for row in section.table for key in row))
        parts.append(f"**{section.title}**")
        lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
        lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in section.table]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, outcome.sections[-1].text]) + "\n"


def _round(value: float) -> float | str:
    """Return a number short enough for a table; infinity and nothing as words."""
    if math.isnan(value):
        return "failed"
    return float(f"{value:.3g}") if math.isfinite(value) else "unknown"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
