"""Draw a stage's plots as PNG pictures with matplotlib."""

import base64
from io import BytesIO

from nanbeige_core.contract import Plot
from nanbeige_core.report.intervals import draw_intervals


def draw(plot: Plot) -> bytes:
    """Return a PNG of the plot (720 x 320 pixels)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.2), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    if plot.kind == "bar":
        _draw_bars(axes, plot)
    elif plot.kind == "interval":
        draw_intervals(axes, plot)
    else:
        for name, values in plot.series.items():
            axes.plot(plot.x[: len(values)], values, label=name, linewidth=1.4)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    if plot.log_y:
        axes.set_yscale("log")
    if len(plot.series) > 1 and plot.kind != "interval":
        axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _draw_bars(axes: object, plot: Plot) -> None:
    width = 0.8 / max(len(plot.series), 1)
    positions = range(len(plot.x))
    for index, (name, values) in enumerate(plot.series.items()):
        axes.bar([p + index * width for p in positions], values, width, label=name)  # type: ignore[attr-defined]
    offset = width * (len(plot.series) - 1) / 2
    axes.set_xticks([p + offset for p in positions], [str(x) for x in plot.x], rotation=30, fontsize=7)  # type: ignore[attr-defined]


def as_data_url(png: bytes) -> str:
    """Return a PNG as a `data:` URL, so that a page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
