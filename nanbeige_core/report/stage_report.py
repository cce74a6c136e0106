"""A stage's report: `report.md` and a self-contained `report.html`, written into its artifact.

Text that came from documents or from a model is hostile: everything is escaped before it reaches markdown or HTML.
"""

import html
from typing import Any

from nanbeige_core.contract import Gain, Job, Outcome, Section
from nanbeige_core.report.drawing import as_data_url, draw
from nanbeige_core.stages import StageSpec

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;font-size:13px;display:block;overflow-x:auto}td,th{border:1px solid #ddd;padding:3px 8px;
text-align:left;vertical-align:top;white-space:pre-wrap}th{background:#f4f4f4}img{max-width:100%}
.gain{background:#eef6ee;padding:.6rem 1rem;border-left:4px solid #4a4}
"""


def write_report(job: Job, outcome: Outcome, spec: StageSpec) -> None:
    """Write `report.md` and `report.html` into the job's work directory."""
    pictures = {
        section.title: as_data_url(draw(section.plot)) for section in outcome.sections if section.plot is not None
    }
    (job.work / "report.md").write_text(markdown_report(job.stage, outcome, spec, pictures), encoding="utf-8")
    (job.work / "report.html").write_text(_html_report(job.stage, outcome, spec, pictures), encoding="utf-8")


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
    numbers = [{"name": key, "value": value} for key, value in {**outcome.counts, **outcome.metrics}.items()]
    for section in [*outcome.sections, Section(title="Numbers", table=numbers)]:
        parts.append(f"## {_escape(section.title)}")
        if section.text:
            parts.append(_escape(section.text))
        if section.title in pictures:
            parts.append(f"![{_escape(section.title)}]({pictures[section.title]})")
        if section.table:
            parts.append(_markdown_table(section.table))
    return "\n\n".join(parts) + "\n"


def _escape(value: Any) -> str:
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    text = html.escape(text, quote=False)
    for mark in "\\`*_[]|#!":
        text = text.replace(mark, f"\\{mark}")
    return text


def _markdown_table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(_escape(column) for column in columns) + " |", "|" + " --- |" * len(columns)]
    for row in rows:
        cells = (_escape(row.get(column, "")).replace("\n", "<br>") for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _html_report(stage: str, outcome: Outcome, spec: StageSpec, pictures: dict[str, str]) -> str:
    parts = [f"<h1>{html.escape(spec.title)}</h1>", f"<p><code>{html.escape(stage)}</code></p>"]
    parts.append(f"<p>{html.escape(outcome.summary)}</p>")
    if outcome.gain:
        parts.append(f'<p class="gain">{html.escape(describe_gain(outcome.gain))}</p>')
    numbers = [{"name": key, "value": value} for key, value in {**outcome.counts, **outcome.metrics}.items()]
    for section in [*outcome.sections, Section(title="Numbers", table=numbers)]:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            parts.append(f"<p>{html.escape(section.text)}</p>")
        if section.title in pictures:
            parts.append(f'<img alt="{html.escape(section.title)}" src="{pictures[section.title]}">')
        if section.table:
            parts.append(html_table(section.table))
    return page(spec.title, "\n".join(parts))


def html_table(rows: list[dict[str, Any]]) -> str:
    """Return an escaped HTML table; columns in order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(column, ''))}</td>" for column in columns) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return html.escape(f"{value:.5g}" if isinstance(value, float) else str(value))


def page(title: str, body: str) -> str:
    """Return a whole self-contained HTML page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>"
    )
