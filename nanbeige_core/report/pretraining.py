"""FG-WSD in one picture: learning rate and mixture against tokens over the four phases, and the loss.

What was measured comes from the phases' checkpoints. For a phase that has not run, rate and mixture follow from the
recipe alone; the sizes of the token sets are then unknown, so its mixture is drawn by tier.
"""

from dataclasses import dataclass, field
from typing import Any

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.data.phases import TokenSet, weigh_phases
from nanbeige_core.errors import RecipeError
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.recipe.configs.data import MixtureConfig
from nanbeige_core.recipe.configs.pretrain import PHASES, FgwsdConfig
from nanbeige_core.recipe.load import Recipe
from nanbeige_core.report.drawing import (
    INK,
    PALETTE,
    add_legend,
    as_svg,
    new_figure,
    plot_line,
    style_axes,
)

History = list[dict[str, float]]
_RATE_POINTS = 60
"""Points of the planned rate in each phase."""
_TITLES = {
    "warmup": "warmup",
    "diverse_stable": "diversity-enriched stable",
    "hq_stable": "high-quality stable",
    "decay": "decay",
}
_PLANNED_COLOURS = {
    "high quality, natural": PALETTE[0],
    "high quality, synthetic": PALETTE[2],
    "medium quality": PALETTE[7],
}


@dataclass(frozen=True)
class PhaseCurve:
    """One phase on the token axis.

    `weights` are shares of the phase's tokens (sum 1) by set, or by tier when only planned; `history` has tokens,
    loss and lr of the steps taken; `validation` is the loss before and after (nats per token).
    """

    phase: str
    begin: int
    end: int
    weights: dict[str, float]
    rate: list[tuple[float, float]]
    measured: bool = False
    history: History = field(default_factory=list)
    validation: tuple[float, float] | None = None


def plan_phases(recipe: Recipe) -> list[PhaseCurve]:
    """Return the phases as the recipe alone gives them; empty when it has no FG-WSD stage."""
    stages = [stage for stage in recipe.stages.values() if isinstance(stage.config, FgwsdConfig)]
    by_phase = {stage.config.phase: stage.config for stage in stages if isinstance(stage.config, FgwsdConfig)}
    mixtures = [stage.config for stage in recipe.stages.values() if isinstance(stage.config, MixtureConfig)]
    curves: list[PhaseCurve] = []
    begin = 0
    for phase in PHASES:
        if phase not in by_phase:
            continue
        config = by_phase[phase]
        end = begin + config.phase_tokens.of(phase)
        if end > begin:
            weights = _planned_weights(mixtures[0] if mixtures else MixtureConfig.model_validate({}), config)
            curves.append(PhaseCurve(phase, begin, end, weights, _planned_rate(config, begin, end)))
        begin = end
    return curves


def measured_phase(planned: PhaseCurve, manifest: Manifest, history: History) -> PhaseCurve:
    """Return a phase as it ran: its loss, its rate, and the sets it drew from."""
    blend = next((s.table for s in manifest.outcome.sections if s.table and {"set", "weight"} <= set(s.table[0])), [])
    gain = manifest.outcome.gain
    return PhaseCurve(
        phase=planned.phase,
        begin=planned.begin,
        end=planned.end,
        weights={str(row["set"]): float(row["weight"]) for row in blend} or planned.weights,
        rate=[(entry["tokens"], entry["lr"]) for entry in history if "lr" in entry] or planned.rate,
        measured=True,
        history=history,
        validation=(gain.before, gain.after) if gain else None,
    )


def draw_recipe(recipe: Recipe) -> Any:
    """Return a figure of rate and mixture from the recipe alone; raise RecipeError when it has no FG-WSD stage."""
    curves = plan_phases(recipe)
    if not curves:
        raise RecipeError(
            f"{recipe.path} has no stage with an FG-WSD config, so there is no learning rate or mixture to plot."
        )
    figure = _draw(curves)
    figure.suptitle(phase_legend(curves), fontsize=8, x=0.02, ha="left")
    return figure


def pretraining_svg(curves: list[PhaseCurve]) -> str:
    """Return the picture of rate, mixture and, where steps were taken, loss as an `<svg>` element."""
    return as_svg(_draw(curves))


def _planned_rate(config: FgwsdConfig, begin: int, end: int) -> list[tuple[float, float]]:
    tokens = config.phase_tokens
    schedule = LrSchedule(
        unit="tokens",
        peak=config.peak_lr,
        floor=config.floor_lr,
        total=sum(tokens.of(phase) for phase in PHASES),
        warmup=tokens.warmup,
        decay=tokens.decay,
        shape=config.decay_shape,
    )
    points = [begin + (end - begin) * at / _RATE_POINTS for at in range(_RATE_POINTS + 1)]
    return [(point, schedule.rate(point)) for point in points]


def _planned_weights(mixture: MixtureConfig, config: FgwsdConfig) -> dict[str, float]:
    """Weigh three sets of equal size: the shares between tiers do not depend on the sizes, except in decay."""
    sets = [TokenSet("hq", "book", 1, 1), TokenSet("hq", "long_cot", 1, 1), TokenSet("mq", "web", 1, 1)]
    names = dict(zip((item.name for item in sets), _PLANNED_COLOURS, strict=True))
    phases = weigh_phases(
        sets,
        hq_token_share=mixture.hq_token_share,
        synthetic_share=mixture.synthetic_share,
        decay_factor=mixture.decay_factor,
        decay_categories=(),
    )
    if config.blend == "even":
        tokens = {phase: config.phase_tokens.of(phase) for phase in PHASES}
        total = sum(tokens.values())
        mean = {n: sum(tokens[p] * phases[p].get(n, 0.0) for p in PHASES) / total for n in names}
        return {names[name]: weight for name, weight in mean.items()}
    if config.phase == "decay" and mixture.decay_factor > 1:
        emphasised = ", ".join(mixture.decay_categories).replace("_", " ")
        return {f"high quality with {emphasised} x {mixture.decay_factor:g}": 1.0}
    return {names[name]: weight for name, weight in phases[config.phase].items()}


def _draw(curves: list[PhaseCurve]) -> Any:
    loss = any(curve.history for curve in curves)
    figure = new_figure(height=5.8 if loss else 4.2)
    heights = [1.3, 0.8, 1.3] if loss else [0.9, 1.3]
    panels: Any = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    panels = list(panels)
    if loss:
        _draw_loss(panels.pop(0), curves)
    _draw_rate(panels[0], curves)
    _draw_mixture(panels[1], curves)
    for axes in figure.axes:
        for curve in curves[1:]:
            axes.axvline(curve.begin, color=PALETTE[7], linewidth=0.7, linestyle=":")
    _name_phases(figure.axes[0], curves)
    return figure


def _name_phases(axes: Any, curves: list[PhaseCurve]) -> None:
    """Number the phases along the top; a narrow one has no room for its name."""
    top = axes.secondary_xaxis("top")
    top.set_xticks([(curve.begin + curve.end) / 2 for curve in curves], [str(at + 1) for at in range(len(curves))])
    top.tick_params(length=0, labelsize=9.5, colors=INK, pad=1)
    top.spines["top"].set_visible(False)


def phase_legend(curves: list[PhaseCurve]) -> str:
    """Return what the numbers above the picture stand for."""
    parts = [f"{at + 1} {_TITLES.get(curve.phase, curve.phase)}" for at, curve in enumerate(curves)]
    planned = [curve for curve in curves if not curve.measured]
    note = " What has not run yet is drawn from the recipe." if planned and len(planned) < len(curves) else ""
    return "Phases: " + ", ".join(parts) + "." + note


def _draw_loss(axes: Any, curves: list[PhaseCurve]) -> None:
    style_axes(axes, y_label="loss, nats/token")
    points = [(e["tokens"], e["loss"]) for curve in curves for e in curve.history if {"tokens", "loss"} <= set(e)]
    if points:
        plot_line(axes, [x for x, _ in points], [y for _, y in points], colour=PALETTE[0], label="training")
    measured = [curve for curve in curves if curve.validation]
    ends = [(curve.begin, curve.validation[0]) for curve in measured[:1] if curve.validation]
    ends += [(curve.end, curve.validation[1]) for curve in measured if curve.validation]
    axes.plot(
        [x for x, _ in ends], [y for _, y in ends], color=PALETTE[1], marker="o", markersize=4, linewidth=1,
        linestyle="--", label="held out, at the ends of phases",
    )  # fmt: skip
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="upper right")


def _draw_rate(axes: Any, curves: list[PhaseCurve]) -> None:
    style_axes(axes, y_label="learning rate")
    points = [point for curve in curves for point in curve.rate]
    axes.plot([x for x, _ in points], [y for _, y in points], color=PALETTE[5], linewidth=1.6)
    axes.set_ylim(bottom=0)


def _draw_mixture(axes: Any, curves: list[PhaseCurve]) -> None:
    style_axes(axes, x_label="tokens trained on", y_label="share of the phase")
    named: dict[str, Any] = {}
    categories = list(dict.fromkeys(name.partition("-")[2] for curve in curves for name in sorted(curve.weights)))
    for curve in curves:
        bottom = 0.0
        for name, weight in sorted(curve.weights.items(), key=lambda item: (item[0].startswith("mq-"), item[0])):
            tier, _, category = name.partition("-")
            colour = _PLANNED_COLOURS.get(name, PALETTE[categories.index(category) % len(PALETTE)])
            bar = axes.bar(
                curve.begin, weight, curve.end - curve.begin, bottom=bottom, align="edge",
                color=colour if category else _PLANNED_COLOURS.get(name, PALETTE[4]), alpha=0.45 if tier == "mq" else 1,
            )  # fmt: skip
            label = category.replace("_", " ") or name
            if label not in named or tier == "hq":
                named[label] = bar
            bottom += weight
    axes.set_ylim(0, 1)
    axes.set_xlim(curves[0].begin, curves[-1].end)
    widest = max(map(len, named))
    add_legend(axes, columns=1 if widest > 40 else 2 if widest > 20 else 4, below=True,
               handles=list(named.values()), labels=list(named))  # fmt: skip
