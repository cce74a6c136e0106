"""A stage's report: `report.md` and a self-contained `report.html`, written into its artifact.

Text that came from documents or from a model is hostile: everything is escaped before it reaches markdown or HTML.
"""

import html
from typing import Any

from nanbeige_core.contract import Gain, Job, Outcome, Section
from nanbeige_core.report.blocks import Block, holds_samples, section_block, verdict_of
from nanbeige_core.report.drawing import as_data_url, draw
from nanbeige_core.report.page import render
from nanbeige_core.stages import StageSpec


def write_report(job: Job, outcome: Outcome, spec: StageSpec) -> None:
    """Write `report.md` and `report.html` into the job's work directory."""
    pictures = {
        section.title: as_data_url(draw(section.plot)) for section in outcome.sections if section.plot is not None
    }
    (job.work / "report.md").write_text(markdown_report(job.stage, outcome, spec, pictures), encoding="utf-8")
    (job.work / "report.html").write_text(html_report(job.stage, outcome, spec), encoding="utf-8")


def describe_gain(gain: Gain) -> str:
    """Return `metric before -> after (difference, 95 % interval, n)` as one line."""
    difference = gain.after - gain.before
    interval = (
        f", 95 % interval {gain.low:+.4g} to {gain.high:+.4g}" if gain.low is not None and gain.high is not None else ""
    )
    direction = "" if gain.higher_is_better else ", lower is better"
    return (
        f"{gain.metric}: {gain.before:.4g} -> {gain.after:.4g} ({difference:+.4g}{interval}, n = {gain.n}{direction})"
    )


def markdown_report(stage: str, outcome: Outcome, spec: StageSpec, pictures: dict[str, str]) -> str:
    """Return the report as markdown; `pictures` maps section titles to image URLs."""
    parts = [f"# {spec.title}", f"`{stage}` · source: {spec.source}", _escape(outcome.summary)]
    if outcome.gain:
        parts.append(f"**{_escape(describe_gain(outcome.gain))}**")
    for section in [*outcome.sections, Section(title="Numbers", table=_numbers(outcome))]:
        parts.append(f"## {_escape(section.title)}")
        if section.text:
            parts.append(_escape(section.text))
        if section.title in pictures:
            parts.append(f"![{_escape(section.title)}]({pictures[section.title]})")
        if section.table:
            parts.append(markdown_table(section.table))
    return "\n\n".join(parts) + "\n"


def _escape(value: Any) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    text = html.escape(text, quote=False)
    for mark in "\\`*_[]|#!":
        text = text.replace(mark, f"\\{mark}")
    return text


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a markdown table, whatever their texts hold shown as text."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(_escape(column) for column in columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (_escape(row.get(column, "")).replace("\n", "<br>") for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def html_report(stage: str, outcome: Outcome, spec: StageSpec, further: list[Section] | None = None) -> str:
    """Return the stage's page; `further` sections (an inspection) come before its figures."""
    blocks = [section_block(section) for section in outcome.sections]
    blocks += [section_block(section, folded=holds_samples(section)) for section in further or []]
    if numbers := _numbers(outcome):
        blocks.append(Block(title="Numbers", table=list(numbers), wide=True))
    return render(
        "stage",
        stage=stage,
        title=spec.title,
        source=spec.source,
        summary=outcome.summary,
        gain=describe_gain(outcome.gain) if outcome.gain else "",
        verdict=verdict_of(outcome.gain) if outcome.gain else "",
        blocks=blocks,
    )


def _numbers(outcome: Outcome) -> list[dict[str, Any]]:
    return [{"name": key, "value": value} for key, value in {**outcome.counts, **outcome.metrics}.items()]
