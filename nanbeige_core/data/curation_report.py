"""What curation reports: what went and why, what the tiers hold, how many twins are left."""

import importlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanbeige_core.contract import Gain, Outcome, Section
from nanbeige_core.data.dedup.run import DedupResult
from nanbeige_core.data.pool import Pool, Row
from nanbeige_core.data.seed_scores import Described
from nanbeige_core.data.tables import count_values, read_table
from nanbeige_core.report.counting import count_rows

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types


EXAMPLES = 3
"""Removed documents that the report shows for each reason."""


@dataclass(frozen=True)
class Curation:
    """What a curation read, kept and dropped; `cut` is the table of paragraphs that were cut from kept documents."""

    everything: Pool
    described: Described
    high_D: NDArray[np.bool_]
    dropped: pa.Table
    evidence: DedupResult
    cut: Path | None
    evaluation_items: int
    seeds: int


class TwinShare(NamedTuple):
    """Share of a sample of so many documents that has a near-duplicate, before deduplication and after."""

    before: float
    after: float
    sample: int


def report(done: Curation, twins: TwinShare, jaccard: float) -> Outcome:
    """Return the outcome of the stage."""
    described, evidence, high_D = done.described, done.evidence, done.high_D
    reasons = count_values(done.dropped["reason"])
    cut = read_table(done.cut, ["characters", "opening"]) if done.cut else None
    kept, dropped = len(described), len(done.dropped)
    hq_tokens, tokens = int(described.tokens_D[high_D].sum()), int(described.tokens_D.sum())
    return Outcome(
        summary=f"Kept {kept:,} of {kept + dropped:,} documents; dropped {dropped:,}, each with evidence. "
        f"The high-quality tier holds {hq_tokens / max(1, tokens):.1%} of the estimated tokens.",
        counts={
            "read": kept + dropped,
            "kept": kept,
            "dropped": dropped,
            **{f"dropped_{reason}": count for reason, count in sorted(reasons.items())},
            "hq": int(high_D.sum()),
            "mq": int((~high_D).sum()),
            "pairs_verified": evidence.verified_pairs,
            "pairs_skipped": evidence.skipped_pairs,
            "largest_component": evidence.largest_component,
            "largest_duplicate_group": evidence.largest_group,
            "sources_over_cap": len(evidence.alarms),
            **({"paragraphs_cut": len(cut)} if cut is not None else {}),
            "seeds": done.seeds,
            "evaluation_items": done.evaluation_items,
        },
        metrics={
            "hq_token_share": hq_tokens / max(1, tokens),
            "twin_share_before": twins.before,
            "twin_share": twins.after,
        },
        gain=Gain(
            metric=f"share of documents with a twin at Jaccard {jaccard} (exact join on a sample)",
            before=twins.before,
            after=twins.after,
            n=twins.sample,
            higher_is_better=False,
        ),
        sections=[
            Section(title="Tiers", table=_tier_table(described, high_D)),
            Section(title="Why documents were dropped", table=count_rows(reasons, "reason", "documents")),
            *_alarm_sections(evidence),
            *(_paragraph_sections(cut) if cut else []),
            Section(title="Removed and kept, examples", table=_examples(done.dropped, done.everything)),
        ],
    )


def _alarm_sections(evidence: DedupResult) -> list[Section]:
    if not evidence.alarms:
        return []
    return [
        Section(
            title="Alarm: sources that near-duplicate removal all but empties",
            text="A template shared by a whole source looks like duplication. Look at the removed and the kept text.",
            table=[alarm._asdict() for alarm in evidence.alarms],
        )
    ]


def _paragraph_sections(cut: pa.Table) -> list[Section]:
    counts, characters = count_values(cut["opening"]), int(pc.sum(cut["characters"]).as_py())
    return [
        Section(
            title="Repeated paragraphs",
            text=f"{len(cut):,} paragraphs with {characters:,} characters were cut, each from a document that is not "
            "the best one to hold it; paragraphs.parquet names the keeper of each. The most frequent:",
            table=[{"opening": opening, "cut": count} for opening, count in Counter(counts).most_common(10)],
        )
    ]


def _tier_table(described: Described, high_D: NDArray[np.bool_]) -> list[Row]:
    groups_D = described.groups()
    rows: list[Row] = []
    for group in np.unique(groups_D):
        category, language = divmod(int(group), len(described.names["language"]))
        for tier, inside in (("hq", high_D), ("mq", ~high_D)):
            chosen = described.tokens_D[(groups_D == group) & inside]
            if len(chosen):
                rows.append(
                    {
                        "category": described.names["category"][category],
                        "language": described.names["language"][language],
                        "tier": tier,
                        "documents": len(chosen),
                        "tokens_estimate": int(chosen.sum()),
                    }
                )
    return rows


def _examples(dropped: pa.Table, everything: Pool) -> list[Row]:
    by_reason = dropped.take(pc.sort_indices(dropped, sort_keys=[("reason", "ascending"), ("id", "ascending")]))
    chosen: list[Row] = []
    first = 0
    for count in count_values(by_reason["reason"]).values():
        chosen += by_reason.slice(first, min(count, EXAMPLES)).to_pylist()
        first += count
    shown = {name for item in chosen for name in (item["id"], item["kept_id"])}
    wanted = pa.array(sorted(shown), pa.string())
    tables = (table.filter(pc.is_in(table["id"], wanted)) for table in everything.tables(("id", "text")))
    texts = {row["id"]: row["text"] for table in tables for row in table.to_pylist()}
    return [
        {
            "reason": item["reason"],
            "removed": texts[item["id"]][:120],
            "kept": texts.get(item["kept_id"], item["kept_id"])[:120],
            "score": round(item["score"], 3),
        }
        for item in chosen
    ]
