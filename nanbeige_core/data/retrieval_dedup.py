"""Curation: gate, decontaminate, remove duplicates, score by labels and seed retrieval, split into two tiers.

Every removed document leaves a row with its reason and evidence. The result does not depend on row order: documents
are sorted by id first and ties end at the id.
"""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from nanbeige_core.contract import Gain, Job, Outcome, Section
from nanbeige_core.data.decontamination import TargetIndex, human_eval_prompts
from nanbeige_core.data.dedup.audit import measure_twin_share
from nanbeige_core.data.dedup.run import DedupResult
from nanbeige_core.data.duplicates import (
    PARAGRAPH_SCHEMA,
    ROWS_PER_FILE,
    Dropped,
    Row,
    cut_repeated_paragraphs,
    dedup_settings,
    drop_duplicates,
    drop_same_meaning,
)
from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.retrieval import count_terms, dense_vectors, latent_vectors, retrieve_from_seeds
from nanbeige_core.data.tables import read_rows, write_rows, write_shards
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig
from nanbeige_core.report.counting import count_rows

CURATED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "text", "source", "category", "language", "licence")),
        *((name, pa.float32()) for name in ("tag_score", "similarity", "final_score")),
        ("tier", pa.string()),
        ("tokens_estimate", pa.int64()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [("id", pa.string()), ("reason", pa.string()), ("kept_id", pa.string()), ("score", pa.float32())]
)
COLUMNS = ("id", "text", "source", "category", "language", "licence", "tag_score", "gate")
CHARACTERS_PER_TOKEN = {"en": 3.3, "zh": 1.1, "code": 3.0, "other": 2.5}
"""Rough, for the tier quantile alone; true counts come from the tokenizer."""
WHOLE_CHARACTERS = 8000
"""What semantic deduplication reads of a document: more than ingest makes of one."""


class RecallError(ValueError):
    """The seeds recall nothing, so the similarity of documents would be noise."""


def run(job: Job) -> Outcome:
    """Write the curated documents in two tiers and every drop with its reason."""
    config: RetrievalDedupConfig = job.config
    built = job.inputs.get("embedding")
    embedding = TextEmbedding.load(built.path) if built else None
    rows = sorted(read_rows(job.inputs["tagged"].path / "documents", COLUMNS), key=lambda row: row["id"])
    targets = TargetIndex(read_targets(job.inputs["problems"].path), config.contamination_ngram)
    job.progress(0.1, "decontaminating")
    clean, dropped = drop_gated_and_contaminated(rows, targets)
    job.progress(0.3, "removing duplicates")
    kept, duplicates, evidence = drop_duplicates(clean, config, job.scratch)
    dropped += duplicates
    if config.semantic_cosine:
        kept, duplicates = drop_same_meaning(kept, embed_whole(kept, config, embedding), config)
        dropped += duplicates
    cut: list[Row] = []
    if config.paragraph_characters:
        named = {item.kept_id for item in dropped}
        kept, duplicates, cut = cut_repeated_paragraphs(kept, named, config, job.scratch / "paragraphs")
        dropped += duplicates
        write_rows(job.work / "paragraphs.parquet", PARAGRAPH_SCHEMA, cut)
    job.progress(0.6, "retrieving from seeds")
    seeds = score_documents(kept, config, embedding)
    assign_tiers(kept, config.hq_token_share)
    curated = ({name: row[name] for name in CURATED_SCHEMA.names} for row in kept)
    write_shards(job.work / "documents", CURATED_SCHEMA, curated, rows_per_file=ROWS_PER_FILE)
    drops = (vars(item) for item in sorted(dropped, key=lambda item: item.id))
    write_rows(job.work / "dropped.parquet", DROPPED_SCHEMA, drops)
    return _report(rows, clean, kept, dropped, evidence, cut, targets, seeds, config)


def embed_whole(
    rows: list[Row], config: RetrievalDedupConfig, embedding: TextEmbedding | None = None
) -> NDArray[np.float32]:
    """Return unit vectors [D, V] of whole documents, for semantic deduplication."""
    if embedding:
        return replace(embedding, characters=WHOLE_CHARACTERS).embed([row["text"] for row in rows])
    counts = count_terms([row["text"] for row in rows], dense=True, characters=WHOLE_CHARACTERS)
    return dense_vectors(counts, config.semantic_vector_size, config.seed)


def read_targets(problems: Path) -> list[tuple[str, str]]:
    """Return (id, text) of everything that measures the model: held-out and evaluation prompts, and HumanEval."""
    rows = read_rows(problems / "prompts.parquet", columns=("id", "split", "prompt"))
    own = [(row["id"], row["prompt"]) for row in rows if row["split"] in ("heldout", "eval")]
    return own + human_eval_prompts()


def drop_gated_and_contaminated(rows: list[Row], targets: TargetIndex) -> tuple[list[Row], list[Dropped]]:
    """Remove documents that fail a format gate or share a long run with an evaluation item."""
    kept: list[Row] = []
    dropped: list[Dropped] = []
    for row in rows:
        hit = None if row["gate"] else targets.find(row["text"])
        if row["gate"]:
            dropped.append(Dropped(row["id"], f"gate_{row['gate'].split('<')[0]}", "", 0.0))
        elif hit is not None:
            dropped.append(Dropped(row["id"], "contaminated", hit.target, float(hit.shared)))
        else:
            kept.append(row)
    return kept, dropped


def score_documents(rows: list[Row], config: RetrievalDedupConfig, embedding: TextEmbedding | None = None) -> list[int]:
    """Set `similarity` and `final_score` of each row in place; return the indices of the seeds.

    Seeds recall through BM25 and vectors: those of `embedding`, else latent ones of the pool itself. Raises
    RecallError when the seeds may recall nothing.
    """
    seeds = pick_seeds(rows, config.seeds_per_category)
    texts = [row["text"] for row in rows]
    similarity = retrieve_from_seeds(
        texts,
        np.array(seeds),
        depth=config.retrieved_per_seed,
        k=config.fusion_k,
        vectors_DV=embedding.embed(texts) if embedding else latent_vectors(texts, config.vector_size, config.seed),
        allowed=_trusted(rows, config),
    )
    if len(rows) > 1 and not similarity.any():
        raise RecallError(
            f"{len(seeds)} seeds recall none of {len(rows)} documents; trusted_sources is "
            f"{list(config.trusted_sources) or 'all'}, trusted_score {config.trusted_score:g}, and the pool has the "
            f"sources {sorted({row['source'] for row in rows})}. Trust more, or the similarity says nothing."
        )
    tag_rank = normalise_ranks(np.array([row["tag_score"] for row in rows]))
    final = config.tag_weight * tag_rank + (1 - config.tag_weight) * normalise_ranks(similarity)
    for row, similar, score in zip(rows, similarity, final, strict=True):
        row.update(similarity=float(similar), final_score=float(score))
    return seeds


def _trusted(rows: list[Row], config: RetrievalDedupConfig) -> NDArray[np.bool_] | None:
    if not config.trusted_sources and not config.trusted_score:
        return None
    return np.array(
        [
            row["tag_score"] >= config.trusted_score
            and (not config.trusted_sources or row["source"] in config.trusted_sources)
            for row in rows
        ]
    )


def pick_seeds(rows: list[Row], count: int) -> list[int]:
    """Return the indices of the `count` best-tagged documents of each category and language."""
    groups: dict[tuple[str, str], list[int]] = {}
    for index in sorted(range(len(rows)), key=lambda i: (-rows[i]["tag_score"], rows[i]["id"])):
        groups.setdefault((rows[index]["category"], rows[index]["language"]), []).append(index)
    return sorted(itertools.chain.from_iterable(group[:count] for group in groups.values()))


def normalise_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return average ranks scaled to 0-1; ties share one."""
    return (rankdata(values) - 0.5) / max(1, len(values))


def assign_tiers(rows: list[Row], hq_token_share: float) -> None:
    """Set `tokens_estimate` and `tier`: the best documents that together hold `hq_token_share` of tokens are hq."""
    for row in rows:
        row["tokens_estimate"] = max(1, round(len(row["text"]) / CHARACTERS_PER_TOKEN[row["language"]]))
    total = sum(row["tokens_estimate"] for row in rows)
    seen = 0
    for row in sorted(rows, key=lambda row: (-row["final_score"], row["id"])):
        row["tier"] = "hq" if seen < hq_token_share * total else "mq"
        seen += row["tokens_estimate"]


def _report(
    rows: list[Row],
    clean: list[Row],
    kept: list[Row],
    dropped: list[Dropped],
    evidence: DedupResult,
    cut: list[Row],
    targets: TargetIndex,
    seeds: list[int],
    config: RetrievalDedupConfig,
) -> Outcome:
    reasons = Counter(item.reason for item in dropped)
    before, _ = measure_twin_share([row["text"] for row in clean], dedup_settings(config))
    after, audited = measure_twin_share([row["text"] for row in kept], dedup_settings(config))
    hq_tokens = sum(row["tokens_estimate"] for row in kept if row["tier"] == "hq")
    tokens = sum(row["tokens_estimate"] for row in kept)
    return Outcome(
        summary=f"Kept {len(kept):,} of {len(rows):,} documents; dropped {len(dropped):,}, each with evidence. "
        f"The high-quality tier holds {hq_tokens / max(1, tokens):.1%} of the estimated tokens.",
        counts={
            "read": len(rows),
            "kept": len(kept),
            "dropped": len(dropped),
            **{f"dropped_{reason}": count for reason, count in sorted(reasons.items())},
            "hq": sum(row["tier"] == "hq" for row in kept),
            "mq": sum(row["tier"] == "mq" for row in kept),
            "pairs_verified": evidence.verified_pairs,
            "pairs_skipped": evidence.skipped_pairs,
            "largest_component": evidence.largest_component,
            "largest_duplicate_group": evidence.largest_group,
            "sources_over_cap": len(evidence.alarms),
            **({"paragraphs_cut": len(cut)} if config.paragraph_characters else {}),
            "seeds": len(seeds),
            "evaluation_items": targets.items,
        },
        metrics={"hq_token_share": hq_tokens / max(1, tokens), "twin_share_before": before, "twin_share": after},
        gain=Gain(
            metric=f"share of documents with a twin at Jaccard {config.jaccard} (exact join on a sample)",
            before=before,
            after=after,
            n=audited,
            higher_is_better=False,
        ),
        sections=[
            Section(title="Tiers", table=_tier_table(kept)),
            Section(
                title="Why documents were dropped",
                table=count_rows(reasons, "reason", "documents"),
            ),
            *_alarm_sections(evidence),
            *_paragraph_sections(cut),
            Section(title="Removed and kept, examples", table=_examples(dropped, rows)),
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


def _paragraph_sections(cut: list[Row]) -> list[Section]:
    if not cut:
        return []
    counts = Counter(row["opening"] for row in cut)
    characters = sum(row["characters"] for row in cut)
    return [
        Section(
            title="Repeated paragraphs",
            text=f"{len(cut):,} paragraphs with {characters:,} characters were cut, each from a document that is not "
            "the best one to hold it; paragraphs.parquet names the keeper of each. The most frequent:",
            table=[{"opening": opening, "cut": count} for opening, count in counts.most_common(10)],
        )
    ]


def _tier_table(rows: list[Row]) -> list[Row]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["category"], row["language"], row["tier"]), []).append(row)
    return [
        {
            "category": category,
            "language": language,
            "tier": tier,
            "documents": len(group),
            "tokens_estimate": sum(row["tokens_estimate"] for row in group),
        }
        for (category, language, tier), group in sorted(groups.items())
    ]


def _examples(dropped: list[Dropped], rows: list[Row]) -> list[Row]:
    texts = {row["id"]: row["text"] for row in rows}
    chosen: list[Dropped] = []
    for _, group in itertools.groupby(
        sorted(dropped, key=lambda item: (item.reason, item.id)), lambda item: item.reason
    ):
        chosen += list(itertools.islice(group, 3))
    return [
        {
            "reason": item.reason,
            "removed": texts[item.id][:120],
            "kept": texts.get(item.kept_id, item.kept_id)[:120],
            "score": round(item.score, 3),
        }
        for item in chosen
    ]
