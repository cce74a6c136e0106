"""The report of a run, or of what the store holds for a plan: one self-contained HTML page.

It is made from manifests and a few small files of the artifacts, so it can be made at any time, for a run that failed
or for half a recipe; what is not there is named as such.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError
from nanbeige_core.recipe.plan import Plan
from nanbeige_core.report.artifact_files import ArtifactFiles
from nanbeige_core.report.blocks import Block, Card, Chapter, as_card, holds_samples, section_block, verdict_of
from nanbeige_core.report.curves import dpd_blocks, loss_block, pass_rate_block, read_history, rl_blocks, sft_blocks
from nanbeige_core.report.effects import group_effects
from nanbeige_core.report.page import format_seconds, render
from nanbeige_core.report.pretraining import measured_phase, phase_legend, plan_phases, pretraining_svg
from nanbeige_core.report.scores import Matrix, compared_answers, problem_ids, score_matrix
from nanbeige_core.report.stage_report import describe_gain
from nanbeige_core.report.timeline import lay_out

_CARDS_PER_STAGE = 4
_EXAMPLES_PER_DECILE = 2
_TEXT_CHARACTERS = 1200
_KEY_DIGITS = 16
_HEAD_BYTES = 1024

RUNS = "runs"
"""Folder of the store that keeps the pages of runs."""
LATEST = "latest"
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


def write_run_report(plan: Plan, manifests: dict[str, Manifest], store: Store, facts: RunFacts, *, run_id: str) -> str:
    """Keep the page in the store as `runs/<run id>/index.html` and `runs/latest/index.html`; return where it is.

    A run that made nothing and whose artifacts the newest page shows already leaves that page as it is.
    """
    newest = f"{RUNS}/{LATEST}/index.html"
    if not facts.executed and not facts.failures and _shows(newest, manifests, store):
        return f"{store.url}/{newest}"
    page = run_page(plan, manifests, store, facts, links=TO_ROOT).encode("utf-8")
    for name in (newest, f"{RUNS}/{run_id}/index.html"):
        store.filesystem.makedirs(f"{store.root}/{name.rpartition('/')[0]}", exist_ok=True)
        store.filesystem.pipe_file(f"{store.root}/{name}", page)
    return f"{store.url}/{RUNS}/{run_id}/index.html"


def _shows(page: str, manifests: Mapping[str, Manifest], store: Store) -> bool:
    """Tell whether a page in the store was made of these very artifacts."""
    try:
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
    files = {name: ArtifactFiles(store, manifest) for name, manifest in manifests.items()}
    timeline = lay_out(list(manifests.values()), facts.executed or list(manifests))
    chapters = [_data_chapter(files), *_training_chapters(plan, files), *_sample_chapters(files)]
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
        timeline=timeline,
        matrix=_guarded(_matrix, files),
        chapters=[chapter for chapter in chapters if chapter.blocks],
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


def _guarded(make: Callable[..., Any], *arguments: Any) -> Any:
    """Return what `make` returns, None when a file of the artifact is gone: a report shows what there is."""
    try:
        return make(*arguments)
    except (ArtifactError, KeyError, TypeError, ValueError):
        return None


def _matrix(files: Mapping[str, ArtifactFiles]) -> Matrix | None:
    evaluations = [one for one in files.values() if one.manifest.kind == Kind.EVAL_REPORT]
    return score_matrix(evaluations[0]) if evaluations else None


def _data_chapter(files: Mapping[str, ArtifactFiles]) -> Chapter:
    """Show what is in the documents that tagging and curation left."""
    # imported here: NumPy and Arrow would slow the start of every command
    from nanbeige_core.report.inspection.registry import inspect

    blocks: list[Block] = []
    for name, one in files.items():
        if one.manifest.kind in (Kind.TAGGED_CORPUS, Kind.CURATED_CORPUS):
            sections = _guarded(inspect, one.store, one.manifest, _EXAMPLES_PER_DECILE) or []
            blocks += [
                replace(block, title=f"{name}: {section.title}")
                for section in sections
                for block in [section_block(section, folded=section.plot is None)]
            ]
    text = "The same of every data artifact, with more examples: nanbeige show STAGE --html FILE."
    return Chapter("data", "Data", text, blocks)


def _training_chapters(plan: Plan, files: Mapping[str, ArtifactFiles]) -> list[Chapter]:
    def gather(make: Callable[[ArtifactFiles], list[Block]], *uses: str) -> list[Block]:
        blocks: list[Block] = []
        for one in files.values():
            if one.manifest.uses in uses:
                blocks += _guarded(make, one) or []
        return blocks

    return [
        Chapter("pretraining", "Pretraining: FG-WSD", "", _pretraining(plan, files)),
        Chapter(
            "sft", "Supervised fine-tuning", "The teacher is tuned on the same cold-start samples.",
            gather(sft_blocks, "cold_start_sft", "overall_sft")
            + gather(lambda one: _one(loss_block(one, "nats per supervised token")), "teacher"),
        ),
        Chapter("dpd", "Dual Preference Distillation", "", gather(dpd_blocks, "dpd")),
        Chapter(
            "filters", "On-policy filters",
            "Before each RL stage every prompt is sampled several times; only prompts that the model sometimes solves "
            "are kept.",
            [block for one in files.values() for block in _guarded(_filter, one) or []],
        ),
        Chapter(
            "rl", "Reinforcement learning", "",
            gather(rl_blocks, "rl_stem", "rl_coding", "rl_preference")
            + gather(lambda one: _one(loss_block(one, "cross-entropy, nats")), "reward_model"),
        ),
    ]  # fmt: skip


def _one(block: Block | None) -> list[Block]:
    return [block] if block else []


def _pretraining(plan: Plan, files: Mapping[str, ArtifactFiles]) -> list[Block]:
    curves = plan_phases(plan.recipe)
    by_phase = {
        str(one.manifest.identity.get("config", {}).get("phase")): one
        for one in files.values()
        if one.manifest.uses.startswith("fgwsd")
    }
    shown = [
        (_guarded(_measured, curve, by_phase[curve.phase]) or curve) if curve.phase in by_phase else curve
        for curve in curves
    ]
    if not shown:
        return []
    paler = " Paler: the medium-quality tier of the same category." if any(curve.measured for curve in shown) else ""
    text = f"Loss, learning rate and mixture against tokens. {phase_legend(shown)}{paler}"
    return [Block(title="One schedule, four mixtures", text=text, svg=pretraining_svg(shown))]


def _measured(curve: Any, files: ArtifactFiles) -> Any:
    return measured_phase(curve, files.manifest, read_history(files))


def _filter(files: ArtifactFiles) -> list[Block]:
    manifest = files.manifest
    if manifest.uses != "on_policy_filter":
        return []
    config = manifest.identity["config"]
    measured = files.input_files("pass_rates")
    if measured is None:
        return []
    return _one(pass_rate_block(measured, (config["low"], config["high"]), manifest.stage, manifest.outcome.summary))


def _sample_chapters(files: Mapping[str, ArtifactFiles]) -> list[Chapter]:
    prompts = _guarded(_prompts, files) or {}
    compared: list[Block] = []
    for one in files.values():
        if one.manifest.kind == Kind.EVAL_REPORT and (cards := _guarded(compared_answers, one, prompts)):
            compared.append(Block(title="First answer of each checkpoint", cards=cards, wide=True))
    samples = [
        Block(title=f"{name}: {section.title}", text=section.text, folded=True, wide=True,
              cards=[_readable(as_card(row), prompts) for row in section.table[:_CARDS_PER_STAGE]])
        for name, one in files.items()
        for section in one.manifest.outcome.sections
        if holds_samples(section)
    ]  # fmt: skip
    return [
        Chapter(
            "answers", "The same problems through training",
            "One problem of each suite: the first that one checkpoint solved and another did not, else the first.",
            compared,
        ),
        Chapter("samples", "Samples of every stage", "As the stages reported them; folded.", samples),
    ]  # fmt: skip


def _prompts(files: Mapping[str, ArtifactFiles]) -> dict[str, str]:
    """Return the texts of the problems that samples name by id."""
    wanted: set[str] = set()
    for one in files.values():
        if one.manifest.kind == Kind.EVAL_REPORT:
            wanted |= problem_ids(one)
        for section in one.manifest.outcome.sections:
            wanted |= {str(row["prompt"]) for row in section.table if "prompt" in row}
    found: dict[str, str] = {}
    for one in files.values():
        if one.manifest.kind == Kind.PROMPT_SET:
            for batch in one.batches("prompts.parquet", ["id", "prompt"]):
                ids, texts = batch.column("id").to_pylist(), batch.column("prompt").to_pylist()
                found |= {key: text for key, text in zip(ids, texts, strict=True) if key in wanted}
    return found


def _readable(card: Card, prompts: Mapping[str, str]) -> Card:
    texts = {name: prompts.get(text, text)[:_TEXT_CHARACTERS] for name, text in card.texts.items()}
    return Card(texts, card.chips, card.verdicts)
