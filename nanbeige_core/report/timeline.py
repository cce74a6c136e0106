"""Where the time went: each stage as a bar on the wall clock, idle hours between sittings left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.report.drawing import PALETTE

_IDLE_SECONDS = 60.0
"""A longer time in which no stage ran separates two sittings and is not drawn."""

GROUPS = {
    "Data": (
        "ingest",
        "problems",
        "quality_dimensions",
        "bilingual_embedding",
        "quality_tagging",
        "retrieval_dedup",
        "tokenizer",
        "mixture",
    ),
    "Pretraining": ("fgwsd_warmup", "fgwsd_diverse_stable", "fgwsd_hq_stable", "fgwsd_decay"),
    "Teacher": ("teacher",),
    "SFT": ("sft_data", "cold_start_sft", "refinement", "overall_sft"),
    "Distillation": ("preference_pairs", "dpd"),
    "RL": ("pass_rates", "on_policy_filter", "reward_model", "rl_stem", "rl_coding", "rl_preference"),
    "Evaluation": ("evaluate", "export"),
}
"""Stage types by the part of the recipe they belong to."""


@dataclass(frozen=True)
class Bar:
    """One stage: `left` and `width` in percent of the drawn time."""

    stage: str
    left: float
    width: float
    seconds: float
    colour: str
    old: bool


@dataclass(frozen=True)
class Timeline:
    """All bars in the order in which stages began, the seconds drawn, and how many sittings they span."""

    bars: list[Bar]
    seconds: float
    sittings: int
    work_seconds: float
    legend: list[tuple[str, str, float]]


def group_of(uses: str) -> str:
    """Return the part of the recipe a stage type belongs to."""
    return next((name for name, members in GROUPS.items() if uses in members), "Other")


def group_colour(name: str) -> str:
    """Return a part's colour."""
    names = [*GROUPS, "Other"]
    return PALETTE[names.index(name) % len(PALETTE)]


def lay_out(manifests: Sequence[Manifest], executed: Sequence[str]) -> Timeline:
    """Place every artifact's making on one axis."""
    ordered = sorted(manifests, key=lambda manifest: manifest.started)
    starts: list[float] = []
    idle, busy_until, origin, sittings = 0.0, 0.0, 0.0, 0
    for at, manifest in enumerate(ordered):
        began = datetime.fromisoformat(manifest.started).timestamp()
        if at == 0:
            origin, busy_until, sittings = began, began, 1
        elif began - busy_until > _IDLE_SECONDS:
            idle += began - busy_until
            sittings += 1
        busy_until = max(busy_until, began + manifest.seconds)
        starts.append(began - origin - idle)
    whole = max((s + m.seconds for s, m in zip(starts, ordered, strict=True)), default=0.0) or 1.0
    bars = [
        Bar(
            manifest.stage,
            round(100 * start / whole, 3),
            round(100 * manifest.seconds / whole, 3),
            manifest.seconds,
            group_colour(group_of(manifest.uses)),
            old=manifest.stage not in executed,
        )
        for start, manifest in zip(starts, ordered, strict=True)
    ]
    return Timeline(bars, whole, sittings, sum(m.seconds for m in ordered), _legend(ordered))


def _legend(manifests: Sequence[Manifest]) -> list[tuple[str, str, float]]:
    seconds: dict[str, float] = {}
    for manifest in manifests:
        group = group_of(manifest.uses)
        seconds[group] = seconds.get(group, 0.0) + manifest.seconds
    return [(name, group_colour(name), seconds[name]) for name in [*GROUPS, "Other"] if name in seconds]
