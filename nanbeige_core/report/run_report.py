"""The report of a run: one table of all stages, as rows, text and a self-contained HTML page."""

import html
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.recipe.plan import Plan
from nanbeige_core.report.stage_report import describe_gain, html_table, page


def summary_rows(plan: Plan, manifests: dict[str, Manifest], executed: list[str]) -> list[dict[str, Any]]:
    """Return one row per stage with an artifact: stage, artifact, tokens, seconds, before and after."""
    rows: list[dict[str, Any]] = []
    for name in plan.stages:
        if name not in manifests:
            continue
        manifest = manifests[name]
        gain = manifest.outcome.gain
        rows.append(
            {
                "stage": name,
                "artifact": manifest.reference.address,
                "type": manifest.kind.value,
                "tokens": manifest.outcome.tokens or "",
                "seconds": round(manifest.seconds, 1),
                "now": "ran" if name in executed else "reused",
                "before -> after": describe_gain(gain) if gain else "",
            }
        )
    return rows


def write_run_report(
    plan: Plan, manifests: dict[str, Manifest], executed: list[str], directory: Path, seconds: float
) -> Path:
    """Write `index.html` with the table and a link to each stage's own page, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = summary_rows(plan, manifests, executed)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    parts = [
        f"<h1>{html.escape(plan.recipe.file.recipe)}</h1>",
        f"<p>profile {html.escape(plan.recipe.profile)}, {made}, {seconds:.0f} s, {len(executed)} stages ran</p>",
        html_table(rows),
    ]
    for name in plan.stages:
        if name in manifests:
            parts.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(manifests[name].outcome.summary)}</p>")
    path = directory / "index.html"
    path.write_text(page(plan.recipe.file.recipe, "\n".join(parts)), encoding="utf-8")
    return path
