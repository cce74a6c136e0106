"""Draw plots with matplotlib: SVG that follows the page's colours (dark mode included), PNG for markdown.

A figure is laid out at the width of a telephone (345 units), so that its text stays legible there; a wider screen
scales it up.
"""

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

from nanbeige_core.contract import Plot
from nanbeige_core.report.intervals import draw_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#3f7fd9", "#e07a35", "#2f9e70", "#b45fb5", "#c79a1b", "#d24a5c", "#1c9fb3", "#7d8794", "#8a6d3b", "#6a5acd")
"""Series colours, each readable on white and on the dark page."""

INK = "#1f2329"
"""Colour of text; on a page it becomes the page's own."""

_FAINT = "#c9ced6"
_WIDTH, _HEIGHT = 4.8, 2.8
_FONT = 10.5
_SMOOTH_FROM = 60
"""Points from which a line is drawn pale, with its moving average over it."""
_CROWDED_BARS = 12
_MOST_BARS = 30
_NAME_CHARACTERS = 60
_LEVEL_CHARACTERS = 45
_PAGE_COLOURS = {INK: "var(--ink)", _FAINT: "var(--line)"}


def draw(plot: Plot) -> bytes:
    """Return the plot as a PNG picture on white."""
    figure = _figure_of(plot)
    figure.set_facecolor("white")
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def draw_svg(plot: Plot) -> str:
    """Return the plot as an `<svg>` element for a page of the report room."""
    return as_svg(_figure_of(plot))


def new_figure(height: float = _HEIGHT, width: float = _WIDTH) -> "Figure":
    """Return an empty figure (sizes in inches; 72 units an inch in SVG) with no background."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    return figure


def style_axes(axes: Any, *, x_label: str = "", y_label: str = "") -> None:
    """Give axes labels, a horizontal grid and quiet spines."""
    axes.set_xlabel(_words(x_label), fontsize=_FONT, color=INK)
    axes.set_ylabel(_words(y_label), fontsize=_FONT, color=INK)
    axes.tick_params(labelsize=_FONT - 1, colors=INK, length=3)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, position: format_tick(value))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)


def format_tick(value: float) -> str:
    """Return a number for an axis: 0.05, 1500, 20k, 1.5M, 23T, 2e-06."""
    for size, mark in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):
            return f"{value / size:.4g}{mark}"
    return f"{value:.4g}"


def add_legend(axes: Any, *, columns: int = 3, below: bool = False, **rest: Any) -> None:
    """Add a frameless legend above the axes, or below them."""
    place = {"loc": "upper left", "bbox_to_anchor": (0, -0.3)} if below else {"loc": "lower left"}
    anchor = {} if below else {"bbox_to_anchor": (0, 1.0)}
    axes.legend(
        **place, **anchor, ncols=columns, frameon=False, fontsize=_FONT - 1, labelcolor=INK,
        borderpad=0, handlelength=1.2, columnspacing=1.2, **rest,
    )  # fmt: skip


def as_svg(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element: text as text, ink and grid in the page's colours, no address in it."""
    from matplotlib import rc_context

    buffer = BytesIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "svg.image_inline": True}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([^;]*?)px '[^;]*;", r"font-size: \1px;", text)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", '<svg role="img"', 1)


def as_data_url(png: bytes) -> str:
    """Return a PNG as a `data:` URL, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def plot_line(axes: Any, x: list[Any], y: list[float], *, colour: str, label: str | None = None) -> None:
    """Draw one series; a long one as a pale line under its moving average."""
    x = x[: len(y)]
    if len(y) < _SMOOTH_FROM:
        axes.plot(x, y, color=colour, label=label, linewidth=1.5, marker="o" if len(y) <= 2 else None, markersize=3)
        return
    axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.3)
    axes.plot(x, moving_average(y), color=colour, label=label, linewidth=1.6)


def moving_average(values: list[float]) -> list[float]:
    """Return the centred mean over a twentieth of the points; shorter windows at both ends."""
    half = max(1, len(values) // 40)
    windows = (values[max(0, at - half) : at + half + 1] for at in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _largest(plot: Plot) -> Plot:
    """Keep the bars that can be read; the label says that there are more."""
    if plot.kind != "bar" or len(plot.x) <= _MOST_BARS:
        return plot
    size = [sum(abs(values[at]) for values in plot.series.values()) for at in range(len(plot.x))]
    shown = sorted(sorted(range(len(plot.x)), key=lambda at: -size[at])[:_MOST_BARS])
    return plot.model_copy(
        update={
            "x": [plot.x[at] for at in shown],
            "series": {name: [values[at] for at in shown] for name, values in plot.series.items()},
            "y_label": f"{plot.y_label} (the {_MOST_BARS} largest of {len(plot.x)})",
        }
    )


def _figure_of(plot: Plot) -> "Figure":
    plot = _largest(plot)
    names = [str(x) for x in plot.x]
    crowded = plot.kind == "bar" and (len(names) > _CROWDED_BARS or max(map(len, names), default=0) > 12)
    wordy = crowded and not all(_is_number(name) for name in names)
    lines = len(names) * (1 if plot.stacked else max(1, len(plot.series) / 2))
    figure = new_figure(height=max(_HEIGHT, 0.9 + 0.19 * lines) if wordy else _HEIGHT)
    axes: Any = figure.add_subplot()
    style_axes(axes, x_label=plot.x_label, y_label=plot.y_label)
    if plot.kind == "line":
        for index, (name, values) in enumerate(plot.series.items()):
            plot_line(axes, list(plot.x), values, colour=PALETTE[index % len(PALETTE)], label=_words(name))
    elif plot.kind == "interval":
        draw_intervals(axes, plot)
    elif wordy:
        _draw_sideways(axes, plot, names)
    else:
        _draw_bars(axes, plot, names)
    if plot.log_y:
        axes.set_yscale("log")
    if len(plot.series) > 1 and plot.kind != "interval":
        add_legend(axes, columns=min(4 if sum(map(len, plot.series)) < 30 else 3, len(plot.series)))
    return figure


def _draw_bars(axes: Any, plot: Plot, names: list[str]) -> None:
    for label, colour, at, values, width, bottom in _bars(plot):
        axes.bar(at, values, width, bottom=bottom, label=label, color=colour)
    every = -(-len(names) // _CROWDED_BARS)
    shown = list(range(0, len(names), every))
    tilted = sum(len(names[at]) for at in shown) > _LEVEL_CHARACTERS
    axes.set_xticks(shown, [_words(names[at]) for at in shown], rotation=30 if tilted else 0)


def _draw_sideways(axes: Any, plot: Plot, names: list[str]) -> None:
    """Many or long names stand beside lying bars, where they can be read."""
    for label, colour, at, values, height, left in _bars(plot):
        axes.barh(at, values, height, left=left, label=label, color=colour)
    style_axes(axes, x_label=plot.y_label, y_label="")
    axes.set_yticks(range(len(names)), [_words(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=_FAINT, linewidth=0.6)


def _bars(plot: Plot) -> Iterator[tuple[str, str, list[float], list[float], float, list[float]]]:
    """Yield each series as (label, colour, places, lengths, thickness, starts): side by side, or stacked."""
    starts = [0.0] * len(plot.x)
    thickness = 0.84 if plot.stacked else 0.84 / max(len(plot.series), 1)
    for index, (name, values) in enumerate(plot.series.items()):
        shift = 0.0 if plot.stacked else (index - (len(plot.series) - 1) / 2) * thickness
        places = [position + shift for position in range(len(values))]
        yield _words(name), PALETTE[index % len(PALETTE)], places, values, thickness, list(starts[: len(values)])
        if plot.stacked:
            starts = [start + value for start, value in zip(starts, values, strict=False)]


def _words(name: str) -> str:
    # a dollar sign in a name would start matplotlib's formula mode, a long name would leave no room for the plot
    short = name if len(name) <= _NAME_CHARACTERS else name[: _NAME_CHARACTERS - 1] + "…"
    return short.replace("_", " ").replace("$", r"\$")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
