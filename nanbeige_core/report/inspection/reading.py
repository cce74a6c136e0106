"""Count and pick rows of an artifact's tables in bounded memory: key columns as batches, texts only of chosen rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.contract import Plot, Section
from nanbeige_core.report.artifact_files import ArtifactFiles

_BLOCKS = "▁▂▃▄▅▆▇█"
TEXT_CHARACTERS = 400
DECILES = 10


def count_by(files: ArtifactFiles, pattern: str, columns: Sequence[str]) -> Counter[tuple[str, ...]]:
    """Return how many rows have each combination of values; a column the tables lack counts as empty."""
    counts: Counter[tuple[str, ...]] = Counter()
    for batch in files.batches(pattern, columns):
        present = [name for name in columns if name in batch.schema.names]
        grouped = pa.Table.from_batches([batch]).group_by(present).aggregate([([], "count_all")]).to_pylist()
        for row in grouped:
            counts[tuple(str(row.get(name, "") or "") for name in columns)] += row["count_all"]
    return counts


def score_of_rows(files: ArtifactFiles, pattern: str, column: str) -> NDArray[np.float64]:
    """Return a numeric column of all rows, nulls as NaN; empty when the tables lack it."""
    parts = [
        batch.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
        for batch in files.batches(pattern, [column])
        if column in batch.schema.names
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def decile_rows(scores: NDArray[np.float64], examples: int) -> list[list[int]]:
    """Return row numbers of up to `examples` rows of each tenth of the rows by score, evenly spread, lowest first."""
    known = np.flatnonzero(~np.isnan(scores))
    ranked = known[np.argsort(scores[known], kind="stable")]
    chosen: list[list[int]] = []
    for tenth in np.array_split(ranked, DECILES):
        wanted = min(examples, len(tenth))
        places = np.linspace(0, len(tenth) - 1, wanted).round().astype(int) if wanted else np.zeros(0, int)
        chosen.append([int(tenth[place]) for place in places])
    return chosen


def decile_sections(
    files: ArtifactFiles, pattern: str, score: str, columns: Sequence[str], examples: int
) -> list[Section]:
    """Return one section per tenth of the rows by `score`, each with examples."""
    scores = score_of_rows(files, pattern, score)
    if not len(scores) or examples < 1:
        return []
    deciles = decile_rows(scores, examples)
    found = files.pick_rows(pattern, [number for part in deciles for number in part], [score, *columns])
    sections: list[Section] = []
    for number, part in enumerate(deciles, start=1):
        if part:
            low, high = scores[part[0]], scores[part[-1]]
            sections.append(
                Section(
                    title=f"Examples of decile {number} of {DECILES} by {score.replace('_', ' ')}",
                    text=f"Scores {low:.3g} to {high:.3g}; decile 1 holds the lowest.",
                    table=[shorten(found[row]) for row in part],
                )
            )
    return sections


def shorten(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cut long texts and round figures, so that a row can be read."""
    short: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, str) and len(value) > TEXT_CHARACTERS:
            value = value[:TEXT_CHARACTERS] + " …"
        short[name] = round(value, 3) if isinstance(value, float) else value
    return short


def histogram_section(
    title: str, values: NDArray[np.float64], *, x_label: str, unit: str, bins: int = 10, text: str = ""
) -> Section | None:
    """Return a histogram as a table of bins with shares, and as a plot; None without values."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    counts, edges = np.histogram(values, bins=bins)
    names = [f"{low:.3g} to {high:.3g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    rows = [
        {x_label: name, unit: int(count), "share": bar(count / len(values))}
        for name, count in zip(names, counts, strict=True)
    ]
    middles = [f"{(low + high) / 2:.3g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    plot = Plot(kind="bar", x=list(middles), series={unit: counts.tolist()}, x_label=x_label, y_label=unit)
    return Section(title=title, text=text, table=rows, plot=plot)


def bar(share: float, width: int = 20) -> str:
    """Return a share as a bar of text with its percentage."""
    return f"{'█' * round(share * width)} {share:.1%}".strip()


def spark(counts: NDArray[np.int64]) -> str:
    """Return counts as a line of eight heights."""
    top = max(int(counts.max()), 1)
    return "".join(_BLOCKS[min(7, int(8 * count / (top + 1e-9)))] for count in counts)
