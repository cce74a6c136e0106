"""The report of a run, or of what the store holds for a plan: one self-contained HTML page.

It is made from manifests and a few small files of the artifacts, so it can be made at any time, for a run that failed
or for half a recipe; what is not there is named as such.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import LATEST, RUNS, Store
from nanbeige_core.recipe.plan import Plan
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.blocks import verdict_of
from nanbeige_core.report.chapters import Evidence, all_chapters, evaluation_matrix
from nanbeige_core.report.effects import group_effects
from nanbeige_core.report.page import format_seconds, render
from nanbeige_core.report.stage_report import describe_gain, markdown_table
from nanbeige_core.report.timeline import lay_out

_KEY_DIGITS = 16
_HEAD_BYTES = 1024

TO_ROOT = "../.."
"""The way from a run's page to the store's root."""


@dataclass(frozen=True)
class RunFacts:
    """What happened in the run that a page is about; all empty when no run is reported.

    `failures` maps a failed stage to its message, `not_started` names what depended on it.
    """

    executed: Sequence[str] = ()
    seconds: float | None = None
    failures: Mapping[str, str] = field(default_factory=dict)
    not_started: Sequence[str] = ()


def summary_rows(plan: Plan, manifests: dict[str, Manifest], executed: Sequence[str]) -> list[dict[str, Any]]:
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


def summary_markdown(plan: Plan, manifests: dict[str, Manifest], executed: Sequence[str]) -> str:
    """Return the final table of a run for a page of the UI's width: every stage, and what it changed."""
    rows: list[dict[str, Any]] = []
    for name in (name for name in plan.stages if name in manifests):
        manifest = manifests[name]
        row: dict[str, Any] = {"stage": name, "now": "ran" if name in executed else "reused"}
        if gain := manifest.outcome.gain:
            row["measure"] = gain.metric if gain.higher_is_better else f"{gain.metric} (lower is better)"
            row["before -> after"] = f"{gain.before:.4g} -> {gain.after:.4g}"
            if gain.low is not None and gain.high is not None:
                row["difference, 95 %"] = f"{gain.low:+.3g} to {gain.high:+.3g}"
        rows.append({**row, "seconds": round(manifest.seconds, 1)})
    columns = ("stage", "now", "measure", "before -> after", "difference, 95 %", "seconds")
    said = ", ".join(f"{count} {word}" for word, count in Counter(row["now"] for row in rows).items())
    return f"**{said}**\n\n{markdown_table([{column: row.get(column, '') for column in columns} for row in rows])}\n"


def write_run_report(plan: Plan, manifests: dict[str, Manifest], store: Store, facts: RunFacts, *, run_id: str) -> str:
    """Keep the page in the store as `runs/<run id>/index.html` and `runs/latest/index.html`; return where it is.

    A run that made nothing and whose artifacts the newest page shows already leaves that page as it is.
    """
    newest = f"{RUNS}/{LATEST}/index.html"
    if not facts.executed and not facts.failures and _shows(newest, manifests, store):
        return f"{store.url}/{newest}"
    page = run_page(plan, manifests, store, facts, links=TO_ROOT).encode("utf-8")
    for name in (newest, f"{RUNS}/{run_id}/index.html"):
        store.write(name, page)
    return f"{store.url}/{RUNS}/{run_id}/index.html"


def _shows(page: str, manifests: Mapping[str, Manifest], store: Store) -> bool:
    """Tell whether a page in the store was made of these very artifacts."""
    try:
        with store.reaching("reading the newest run page"):
            head = store.filesystem.cat_file(f"{store.root}/{page}", start=0, end=_HEAD_BYTES)
    except OSError:
        return False
    return artifacts_key(manifests).encode() in head


def artifacts_key(manifests: Mapping[str, Manifest]) -> str:
    """Return a short digest of which artifacts a page shows; the page carries it in its head."""
    rows = sorted([name, manifest.digest] for name, manifest in manifests.items())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:_KEY_DIGITS]


def run_page(plan: Plan, manifests: dict[str, Manifest], store: Store, facts: RunFacts, *, links: str = "") -> str:
    """Return the page; `links` is the way from its place to the store's root, empty for no links."""
    manifests = {name: manifests[name] for name in plan.stages if name in manifests}
    evidence = Evidence({name: ArtifactFiles(store, manifest) for name, manifest in manifests.items()})
    matrix = evaluation_matrix(evidence)
    chapters = all_chapters(plan.recipe, evidence)
    return render(
        "run",
        key=artifacts_key(manifests),
        recipe=plan.recipe.file.recipe,
        profile=plan.recipe.profile,
        overrides=plan.recipe.overrides,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=facts,
        tiles=_tiles(plan, manifests, facts),
        stages=_stage_rows(plan, manifests, facts, links),
        effects=group_effects(manifests.values()),
        timeline=lay_out(list(manifests.values()), facts.executed or list(manifests)),
        matrix=matrix,
        chapters=[chapter for chapter in chapters if chapter.blocks],
        problems=evidence.problems,
    )


def _tiles(plan: Plan, manifests: Mapping[str, Manifest], facts: RunFacts) -> list[tuple[str, str]]:
    tiles = [(f"{len(manifests)} of {len(plan.stages)}", "stages have their artifact")]
    if facts.seconds is not None:
        tiles.append((format_seconds(facts.seconds), f"this run: {len(facts.executed)} stages executed"))
    tiles.append((format_seconds(sum(m.seconds for m in manifests.values())), "work in all artifacts"))
    evaluation = next((m for m in manifests.values() if m.kind == Kind.EVAL_REPORT), None)
    if evaluation is not None and (gain := evaluation.outcome.gain):
        tiles.append((f"{gain.before:.3f} → {gain.after:.3f}", f"evaluation: {gain.metric}"))
    verdicts = [verdict_of(m.outcome.gain) for m in manifests.values() if m.outcome.gain]
    if verdicts:
        said = f"{verdicts.count('better')} better, {verdicts.count('worse')} worse"
        tiles.append((said, f"of {len(verdicts)} measured stages, beyond their 95 % interval"))
    return tiles


def _stage_rows(plan: Plan, manifests: Mapping[str, Manifest], facts: RunFacts, links: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, planned in plan.stages.items():
        manifest = manifests.get(name)
        row: dict[str, Any] = {"stage": name, "title": planned.stage.spec.title, "address": planned.address, "link": ""}
        if name in facts.failures:
            row["status"] = "failed"
        elif manifest is None:
            row["status"] = "not started" if name in facts.not_started else "not made"
        else:
            row["status"] = "ran" if name in facts.executed else "reused"
        if manifest is not None:
            gain = manifest.outcome.gain
            row |= {
                "link": f"{links}/{planned.address}/report.html" if links else "",
                "tokens": manifest.outcome.tokens or None,
                "seconds": manifest.seconds,
                "gain": describe_gain(gain) if gain else "",
                "verdict": verdict_of(gain) if gain else "",
                "summary": manifest.outcome.summary,
            }
        rows.append(row)
    return rows
