"""Inspect documents: languages, sources, labels, reasons for drops, duplicates, and examples by quality."""

from collections import Counter

import numpy as np
import pyarrow as pa

from nanbeige_core.contract import Plot, Section
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.counting import count_rows, cross_counted
from nanbeige_core.report.inspection.reading import (
    count_by,
    decile_sections,
    histogram_section,
    score_of_rows,
    shorten,
    spark,
)

DOCUMENTS = "documents/*.parquet"
_DROPPED = "dropped.parquet"
_SHOWN = ("source", "category", "language", "text")
_SCORES = ("tag_score", "similarity", "final_score")
_LABEL_BINS = 10


def inspect_corpus(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return what raw documents are: counts, lengths, drops, and examples from short to long."""
    counts = files.manifest.outcome.counts
    reasons = {name.removeprefix("dropped_"): count for name, count in counts.items() if name.startswith("dropped_")}
    sections = _origin_sections(files)
    if reasons:
        sections.append(Section(title="Dropped by reason", table=count_rows(reasons, "reason", "texts")))
    return [*sections, *_spread_examples(files, examples)]


def inspect_tagged(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return the labels of tagged documents, gates by reason and source, and examples by tag score."""
    return [
        *_origin_sections(files),
        *_label_sections(files),
        *_gate_sections(files),
        *decile_sections(files, DOCUMENTS, "tag_score", (*_SHOWN, "gate"), examples),
    ]


def inspect_curated(files: ArtifactFiles, examples: int) -> list[Section]:
    """Return tiers and scores of kept documents, drops by reason and source, duplicates, examples by final score."""
    tiers = count_by(files, DOCUMENTS, ["category", "tier"])
    sections = [
        *_origin_sections(files),
        Section(title="Tiers by category", table=cross_counted(_pairs(tiers), "category", "documents")),
    ]
    for name in _SCORES:
        histogram = histogram_section(
            f"Distribution of the {name.replace('_', ' ')}",
            score_of_rows(files, DOCUMENTS, name),
            x_label=name,
            unit="documents",
        )
        sections += [histogram] if histogram else []
    return [
        *sections,
        *_drop_sections(files),
        *decile_sections(files, DOCUMENTS, "final_score", (*_SHOWN, "tier"), examples),
    ]


def _origin_sections(files: ArtifactFiles) -> list[Section]:
    pairs = _pairs(count_by(files, DOCUMENTS, ["source", "language"]))
    languages: Counter[str] = Counter()
    for (_, language), count in pairs.items():
        languages[language] += count
    table = cross_counted(pairs, "source", "documents")
    shown = [name for name, _ in languages.most_common()]
    plot = Plot(
        kind="bar",
        x=[str(row["source"]) for row in table],
        series={name: [float(row[name]) for row in table] for name in shown},
        x_label="source",
        y_label="documents",
        stacked=True,
    )
    return [
        Section(title="Documents by language", table=count_rows(languages, "language", "documents")),
        Section(title="Documents by source and language", table=table, plot=plot),
    ]


def _label_sections(files: ArtifactFiles) -> list[Section]:
    """Histogram every numeric column that is a label: the 0 to 9 scale in ten bins."""
    names = [name for name in _numeric_columns(files) if name not in _SCORES]
    counts = {name: np.zeros(_LABEL_BINS, dtype=np.int64) for name in names}
    sums = dict.fromkeys(names, 0.0)
    for batch in files.batches(DOCUMENTS, names):
        for name in names:
            values = batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)
            values = values[~np.isnan(values)]
            counts[name] += np.bincount(np.clip(values.round(), 0, 9).astype(int), minlength=_LABEL_BINS)
            sums[name] += float(values.sum())
    table = [
        {
            "label": name,
            "mean": round(sums[name] / max(1, int(counts[name].sum())), 2),
            "0 to 9": spark(counts[name]),
            **{str(at): int(count) for at, count in enumerate(counts[name])},
        }
        for name in names
    ]
    plot = Plot(
        kind="bar",
        x=list(names),
        series={"mean": [float(row["mean"]) for row in table]},
        x_label="label",
        y_label="mean label, 0 to 9",
    )
    scores = histogram_section(
        "Distribution of the tag score",
        score_of_rows(files, DOCUMENTS, "tag_score"),
        x_label="tag_score",
        unit="documents",
    )
    found = [Section(title="Labels", text="Documents at each label, rounded.", table=table, plot=plot)] if names else []
    return [*found, *([scores] if scores else [])]


def _numeric_columns(files: ArtifactFiles) -> list[str]:
    for batch in files.batches(DOCUMENTS, files.columns(DOCUMENTS)):
        return [field.name for field in batch.schema if pa.types.is_floating(field.type)]
    return []


def _gate_sections(files: ArtifactFiles) -> list[Section]:
    gates = {pair: n for pair, n in _pairs(count_by(files, DOCUMENTS, ["source", "gate"])).items() if pair[1]}
    if not gates:
        return []
    return [Section(title="Gated by source and reason", table=cross_counted(gates, "source", "documents"))]


def _drop_sections(files: ArtifactFiles) -> list[Section]:
    """Count what was dropped by reason and source, and which source kept the twin of a duplicate."""
    dropped = files.read_table(_DROPPED, ["id", "reason", "kept_id"]).to_pylist()
    if not dropped:
        return [Section(title="Dropped by source and reason", text="Nothing was dropped.")]
    sources = _sources(files, {row["id"] for row in dropped} | {row["kept_id"] for row in dropped})
    reasons = Counter((sources.get(row["id"], "unknown"), row["reason"]) for row in dropped)
    twins = Counter(
        (sources.get(row["id"], "unknown"), sources.get(row["kept_id"], "unknown"))
        for row in dropped
        if "duplicate" in row["reason"]
    )
    return [
        Section(title="Dropped by source and reason", table=cross_counted(reasons, "source", "dropped")),
        Section(
            title="Duplicates by source",
            text="Rows: the source of the removed document. Columns: the source of the one that was kept.",
            table=cross_counted(twins, "removed from", "duplicates"),
        ),
    ]


def _sources(files: ArtifactFiles, wanted: set[str]) -> dict[str, str]:
    """Return the source of documents by id: the kept ones from the artifact, the others from what it was made of."""
    found: dict[str, str] = {}
    for holder in (files, files.input_files("tagged")):
        if holder is None:
            continue
        for batch in holder.batches(DOCUMENTS, ["id", "source"]):
            ids, sources = batch.column("id").to_pylist(), batch.column("source").to_pylist()
            found |= {key: source for key, source in zip(ids, sources, strict=True) if key in wanted}
    return found


def _spread_examples(files: ArtifactFiles, examples: int) -> list[Section]:
    """Raw documents have no score: show some evenly spread over the corpus."""
    total = files.rows(DOCUMENTS)
    numbers = sorted({round(at * (total - 1) / max(1, examples - 1)) for at in range(min(examples, total))})
    rows = files.pick_rows(DOCUMENTS, numbers, _SHOWN)
    if not rows:
        return []
    return [Section(title="Examples", text="Evenly spread over the corpus.", table=[shorten(rows[n]) for n in numbers])]


def _pairs(counts: Counter[tuple[str, ...]]) -> dict[tuple[str, str], int]:
    return {(key[0], key[1]): count for key, count in counts.items()}
