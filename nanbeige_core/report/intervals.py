"""Draw differences with their intervals: one row for each arm, and a line where nothing differs."""

from typing import Any

from nanbeige_core.contract import Plot


def draw_intervals(axes: Any, plot: Plot) -> None:
    """Draw a point with its interval for each name of an `interval` plot, top to bottom, on matplotlib axes."""
    middle, low, high = (plot.series[name] for name in ("difference", "low", "high"))
    rows = list(range(len(plot.x)))
    reach = [
        [point - end for point, end in zip(middle, low, strict=True)],
        [end - point for point, end in zip(middle, high, strict=True)],
    ]
    axes.errorbar(middle, rows, xerr=reach, fmt="o", capsize=4, linewidth=1.4)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(rows, [str(name) for name in plot.x])
    axes.set_ylim(len(plot.x) - 0.5, -0.5)
