"""What the training stages learned, as blocks: losses, DPD's terms and margins, reward and held-out score, filters."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nanbeige_core.contract import Plot, Section
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.blocks import Block, Row
from nanbeige_core.report.drawing import (
    PALETTE,
    add_legend,
    as_svg,
    draw_svg,
    new_figure,
    plot_line,
    style_axes,
)

History = list[dict[str, float]]
_STATE = "state.json"
_RATE_BINS = 20
_DPD_TERMS = {"dpo": "L_dpo", "positive_kl": "KL on y+ (L_pos)", "negative_kl": "KL on y- (L_neg)"}
_DPD_MARGINS = {"margin": "margin", "chosen_gain": "y+ against reference", "rejected_gain": "y- against reference"}
_LOST = {
    "dead_group_share": "groups of equal rewards",
    "truncated_share": "cut off",
    "unscored_share": "unscored",
}


def read_history(files: ArtifactFiles) -> History:
    """Return the steps a checkpoint's `state.json` keeps, empty when it keeps none."""
    if not files.has(_STATE):
        return []
    history = files.read_json(_STATE).get("history", [])
    return [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []


def sft_blocks(files: ArtifactFiles) -> list[Block]:
    """Training loss against steps, and every measure the stage took by domain, before and after."""
    stage = files.manifest.stage
    measures = [
        _by_domain(stage, section)
        for section in files.manifest.outcome.sections
        if section.table and {"domain", "before", "after"} <= set(section.table[0])
    ]
    return [*loss_block(files, "nats per supervised token"), *measures]


def dpd_blocks(files: ArtifactFiles) -> list[Block]:
    """The three terms and the margins over the steps, and both levels before and after."""
    stage = files.manifest.stage
    blocks = [
        *_history_block(files, f"{stage}: the three terms", _DPD_TERMS, "unweighted term, nats",
                       "L_dpo starts at ln 2 = 0.693, where the student prefers neither response."),
        *_history_block(files, f"{stage}: margins", _DPD_MARGINS, "nats per pair",
                       "Log-probability beyond the reference, summed over the response. The margin is their "
                       "difference; both falling together would be likelihood displacement."),
    ]  # fmt: skip
    tables = [
        Block(title=f"{stage}: {section.title}", text=section.text, table=list(section.table))
        for section in files.manifest.outcome.sections
        if section.table and {"measure", "before", "after"} <= set(section.table[0])
    ]
    return [*blocks, *tables]


def rl_blocks(files: ArtifactFiles) -> list[Block]:
    """Reward over the steps with the held-out score before and after, and what gave no gradient."""
    history, stage = read_history(files), files.manifest.stage
    rewards = [(entry["step"], entry["reward"]) for entry in history if {"step", "reward"} <= set(entry)]
    if not rewards:
        return []
    gain = files.manifest.outcome.gain
    figure = new_figure()
    axes: Any = figure.add_subplot()
    style_axes(axes, x_label="step", y_label="mean reward, 0 to 1")
    plot_line(axes, [x for x, _ in rewards], [y for _, y in rewards], colour=PALETTE[0], label="training prompts")
    if gain:
        axes.plot(
            [rewards[0][0], rewards[-1][0]], [gain.before, gain.after],
            color=PALETTE[1], marker="o", markersize=5, linewidth=1, linestyle="--", label=gain.metric,
        )  # fmt: skip
    add_legend(axes, columns=1 if gain and len(gain.metric) > 24 else 2)
    lost = _history_block(files, f"{stage}: lost samples", _LOST, "share of samples or groups",
                          "A group whose rewards are all equal teaches nothing; a response that is cut off or that "
                          "nobody could score gives no gradient.")  # fmt: skip
    return [Block(title=f"{stage}: reward", text=files.manifest.outcome.summary, svg=as_svg(figure)), *lost]


def loss_block(files: ArtifactFiles, y_label: str) -> list[Block]:
    """Training loss against steps or tokens, whichever the history counts."""
    return _history_block(files, f"{files.manifest.stage}: training loss", {"loss": "loss"}, y_label)


def pass_rate_block(files: ArtifactFiles, *, low: float, high: float, strict: bool, block: Block) -> list[Block]:
    """Return `block` with a histogram of measured pass rates and the band; the filter's own rule says what it keeps."""
    # imported here: Arrow and SciPy would slow the start of every command
    from nanbeige_core.rl.on_policy_filter import Rate, decide

    rates = [Rate(**row) for row in files.read_table("pass_rates.parquet", Rate._fields).to_pylist()]
    kept = [rate.rate for rate in rates if decide(rate, low=low, high=high, strict=strict) == "kept"]
    known = [rate.rate for rate in rates if rate.rate is not None]
    if not known:
        return []
    return [
        replace(block, svg=as_svg(_draw_pass_rates(known, [rate for rate in kept if rate is not None], (low, high))))
    ]


def _draw_pass_rates(known: Sequence[float], kept: Sequence[float], band: tuple[float, float]) -> Any:
    figure = new_figure()
    axes: Any = figure.add_subplot()
    style_axes(axes, x_label="measured pass rate", y_label="prompts")
    places = [at / _RATE_BINS for at in range(_RATE_BINS + 1)]
    inside, everything = _binned(kept), _binned(known)
    outside = [whole - part for whole, part in zip(everything, inside, strict=True)]
    axes.axvspan(*band, color=PALETTE[2], alpha=0.13, linewidth=0, label=f"band, {band[0]:g} to {band[1]:g}")
    axes.bar(places, inside, 0.8 / _RATE_BINS, color=PALETTE[2], label=f"kept: {sum(inside)}")
    axes.bar(places, outside, 0.8 / _RATE_BINS, bottom=inside, color=PALETTE[7], label=f"dropped: {sum(outside)}")
    add_legend(axes, columns=3)
    return figure


def _binned(rates: Sequence[float]) -> list[int]:
    counts = [0] * (_RATE_BINS + 1)
    for rate in rates:
        counts[round(rate * _RATE_BINS)] += 1
    return counts


def _history_block(
    files: ArtifactFiles, title: str, names: dict[str, str], y_label: str, text: str = ""
) -> list[Block]:
    history = read_history(files)
    axis = "step" if history and "step" in history[0] else "tokens"
    points = [entry for entry in history if axis in entry and any(name in entry for name in names)]
    if not points:
        return []
    series = {
        label: [entry[name] for entry in points]
        for name, label in names.items()
        if all(name in entry for entry in points)
    }
    if not series:
        return []
    plot = Plot(kind="line", x=[entry[axis] for entry in points], series=series, x_label=axis, y_label=y_label)
    return [Block(title=title, text=text, svg=draw_svg(plot))]


def _by_domain(stage: str, section: Section) -> Block:
    rows: list[Row] = list(section.table)
    plot = Plot(
        kind="bar",
        x=[str(row["domain"]) for row in rows],
        series={name: [float(row[name]) for row in rows] for name in ("before", "after")},
        x_label="domain",
        y_label="nats per token" if "loss" in section.title.lower() else "share right",
    )
    return Block(title=f"{stage}: {section.title}", text=section.text, svg=draw_svg(plot))
