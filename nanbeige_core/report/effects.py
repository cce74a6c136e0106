"""Before -> after of every stage on common scales, with what the intervals allow one to say."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.contract import Gain
from nanbeige_core.report.blocks import verdict_of


@dataclass(frozen=True)
class Effect:
    """One stage's difference on the axis of its group; `point`, `low`, `high` in percent of the axis."""

    stage: str
    metric: str
    change: str
    interval: str
    verdict: str
    point: float
    low: float
    high: float


@dataclass(frozen=True)
class EffectGroup:
    """Differences in one unit; `zero` is where no difference lies, in percent of the axis."""

    title: str
    zero: float
    left: str
    right: str
    effects: list[Effect]


def group_effects(manifests: Iterable[Manifest]) -> list[EffectGroup]:
    """Return the gains grouped by unit: shares, losses, and each other measure on its own axis."""
    groups: dict[str, list[tuple[str, Gain]]] = {}
    for manifest in manifests:
        gain = manifest.outcome.gain
        if gain is not None:
            groups.setdefault(_unit(gain), []).append((manifest.stage, gain))
    return [_place(title, members) for title, members in groups.items()]


def _unit(gain: Gain) -> str:
    if "loss" in gain.metric.lower():
        return "Losses, nats per token (lower is better)"
    if min(gain.before, gain.after) >= 0 and max(gain.before, gain.after) <= 1:
        return "Shares and rates, 0 to 1"
    words = _words(gain.metric)
    return words[:1].upper() + words[1:]


def _words(metric: str) -> str:
    return metric.replace("_", " ").replace("->", "→")


def _place(title: str, members: list[tuple[str, Gain]]) -> EffectGroup:
    ends = [0.0]
    for _, gain in members:
        ends += [gain.after - gain.before, *(end for end in (gain.low, gain.high) if end is not None)]
    first, last = min(ends), max(ends)
    margin = 0.06 * ((last - first) or 1.0)
    first, last = first - margin, last + margin

    def percent(value: float) -> float:
        return round(100 * (value - first) / (last - first), 2)

    effects = [_effect(stage, gain, percent) for stage, gain in members]
    return EffectGroup(title, percent(0.0), f"{first:+.2g}", f"{last:+.2g}", effects)


def _effect(stage: str, gain: Gain, percent: Callable[[float], float]) -> Effect:
    difference = gain.after - gain.before
    known = gain.low is not None and gain.high is not None
    interval = f"[{gain.low:+.3g}, {gain.high:+.3g}]" if known else "no interval"
    direction = "" if gain.higher_is_better else ", lower is better"
    return Effect(
        stage=stage,
        metric=f"{_words(gain.metric)} (n = {gain.n}{direction})",
        change=f"{gain.before:.3g} → {gain.after:.3g}",
        interval=f"{difference:+.3g} {interval}",
        verdict=verdict_of(gain),
        point=percent(difference),
        low=percent(gain.low if gain.low is not None else difference),
        high=percent(gain.high if gain.high is not None else difference),
    )
