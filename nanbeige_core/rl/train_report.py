"""What an RL stage reports: the gain on held-out problems, curves, and sample responses."""

from collections.abc import Sequence

from nanbeige_core.contract import Gain, Outcome, Plot, Section
from nanbeige_core.evals.statistics import Interval, paired_difference
from nanbeige_core.recipe.configs.rl import RlConfig
from nanbeige_core.rl.held_out import Measured
from nanbeige_core.rl.stage import Stage

History = Sequence[dict[str, float]]
SHOWN = 6
"""Sample responses in the report."""


def build_outcome(stage: Stage, before: Measured, after: Measured) -> Outcome:
    """Return the outcome of a finished RL stage."""
    config, history, prompts = stage.config, stage.history, stage.prompts
    interval = paired_difference(before.values, after.values)
    gain = Gain(
        metric=stage.held_out.metric,
        before=before.mean,
        after=after.mean,
        n=len(before.values),
        low=interval.low,
        high=interval.high,
    )
    sampled = int(sum(entry["sampled_tokens"] for entry in history))
    fallen = stage.monitor.regressions(history)
    lost = f" REGRESSION of earlier domains: {'; '.join(map(str, fallen))}." if fallen else ""
    return Outcome(
        summary=_summary(config, history, before, after, interval) + lost,
        counts={
            "prompts": len(prompts.rows),
            "dropped_too_long": len(prompts.too_long),
            "steps": len(history),
            "updates": int(sum(entry["updates"] for entry in history)),
            "rollouts": len(history) * config.prompts_per_step * config.group_size,
            "heldout_problems": len(before.values),
            **({"regressed_domains": len(fallen)} if stage.monitor.baselines else {}),
        },
        metrics=_metrics(history),
        tokens=sampled,
        gain=gain,
        sections=[*stage.sections, *stage.monitor.sections(history), *_curves(history), _samples(before, after)],
    )


def _summary(config: RlConfig, history: History, before: Measured, after: Measured, interval: Interval) -> str:
    idle = sum(entry["updates"] == 0 for entry in history)
    skipped = f" {idle} steps had no group to learn from." if idle else ""
    if len(history) < config.steps:
        skipped += f" Stopped at a plateau, {config.steps - len(history)} steps early."
    return (
        f"{len(history)} on-policy steps of {config.prompts_per_step} prompts x {config.group_size} responses moved "
        f"the held-out score from {before.mean:.3f} to {after.mean:.3f} (95 % interval of the difference "
        f"{interval.low:+.3f} to {interval.high:+.3f}).{skipped}"
    )


def _metrics(history: History) -> dict[str, float]:
    tail = history[-max(1, len(history) // 5) :]
    head = history[: max(1, len(history) // 5)]
    names = ("reward", "entropy", "dead_group_share", "truncated_share", "response_tokens")
    metrics = {f"{name}_first_fifth": _mean(head, name) for name in names}
    metrics |= {f"{name}_last_fifth": _mean(tail, name) for name in names}
    metrics["largest_probe_difference"] = max(entry["probe_difference"] for entry in history)
    for name in ("rollout_seconds", "update_seconds", "sync_seconds", "gap_mean", "gen_kl"):
        metrics[name] = _mean(history, name)
    return metrics


def _mean(entries: History, name: str) -> float:
    values = [entry[name] for entry in entries if name in entry]
    return sum(values) / len(values) if values else 0.0


def _curves(history: History) -> list[Section]:
    def section(title: str, text: str, names: Sequence[str], y_label: str) -> Section:
        series = {name: [entry.get(name, 0.0) for entry in history] for name in names}
        steps: list[float | str] = [entry["step"] for entry in history]
        return Section(
            title=title,
            text=text,
            plot=Plot(kind="line", x=steps, series=series, x_label="step", y_label=y_label),
        )

    return [
        section("Reward", "Mean over the step's scored responses.", ["reward"], "reward"),
        section("Entropy", "Mean of -log p over sampled tokens.", ["entropy"], "nat per token"),
        section(
            "Lost samples",
            "Groups with equal rewards teach nothing; truncated responses give no gradient.",
            ["dead_group_share", "truncated_share", "unscored_share"],
            "share",
        ),
        section(
            "Trainer against engine",
            "Mean difference of log-probabilities of the sampled tokens, before the update.",
            ["gap_mean", "probe_difference"],
            "nat",
        ),
        section("Response length", "", ["response_tokens"], "tokens"),
        section("Gradient norm", "Before clipping.", ["grad_norm"], "norm"),
    ]


def _samples(before: Measured, after: Measured) -> Section:
    table = [
        {"prompt": old[0], "before": old[1], "score before": old[2], "after": new[1], "score after": new[2]}
        for old, new in zip(before.examples[:SHOWN], after.examples[:SHOWN], strict=True)
    ]
    return Section(title="Held-out samples", text="One response per problem.", table=table)
