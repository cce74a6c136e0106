"""Curation: gate, decontaminate, remove duplicates, score by labels and seed retrieval, split into two tiers.

Every removed document leaves a row with its reason and evidence. The result does not depend on row order: documents
are brought into the order of their ids first and ties end at the id. Text stays on disk: each step goes through it
again, and memory holds a few dozen bytes of each document.
"""

import importlib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    Dropped,
    cut_repeated_paragraphs,
    dedup_settings,
    drop_duplicates,
    drop_same_meaning,
)
from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.pool import ROWS_PER_FILE, Pool, Row
from nanbeige_core.data.reordering import ranks_of, reorder
from nanbeige_core.data.retrieval import (
    FindVectors,
    count_terms,
    dense_vectors,
    find_latent_vectors,
    retrieve_from_seeds,
)
from nanbeige_core.data.sources.path import SourceError, expand_paths, read_path
from nanbeige_core.data.tables import read_batches, read_rows, read_table, write_rows, write_shards
from nanbeige_core.recipe.configs.data import EvaluationTable, RetrievalDedupConfig
from nanbeige_core.report.counting import count_rows

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

# Shapes: D documents in the order of their ids.

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
TAGGED_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "text", "source", "category", "language", "licence")),
        ("tag_score", pa.float32()),
        ("gate", pa.string()),
    ]
)
"""What curation reads of a tagged document."""

CHARACTERS_PER_TOKEN = {"en": 3.3, "zh": 1.1, "code": 3.0, "other": 2.5}
"""Rough, for the tier quantile alone; true counts come from the tokenizer."""
WHOLE_CHARACTERS = 8000
"""What semantic deduplication reads of a document: more than ingest makes of one."""


class RecallError(ValueError):
    """The seeds recall nothing, so the similarity of documents would be noise."""


class EmptyPoolError(ValueError):
    """Every document was dropped."""


@dataclass(frozen=True)
class Described:
    """What scoring and tiers need of the kept documents; names are numbers into the sorted values of their column."""

    tag_scores_D: NDArray[np.float64]
    tokens_D: NDArray[np.int64]
    names: dict[str, tuple[str, ...]]
    numbers_D: dict[str, NDArray[np.int64]]

    @staticmethod
    def of(pool: Pool) -> "Described":
        """Read a pool once; tokens are estimated from characters."""
        known: dict[str, dict[str, int]] = {"source": {}, "category": {}, "language": {}}
        found: dict[str, list[int]] = {name: [] for name in known}
        scores: list[float] = []
        tokens: list[int] = []
        for row in pool.rows("tag_score", "text", *known):
            scores.append(row["tag_score"])
            tokens.append(max(1, round(len(row["text"]) / CHARACTERS_PER_TOKEN[row["language"]])))
            for name, numbers in known.items():
                found[name].append(numbers.setdefault(row[name], len(numbers)))
        names = {name: tuple(sorted(numbers)) for name, numbers in known.items()}
        places = {name: np.argsort(np.argsort(list(numbers))) for name, numbers in known.items()}
        numbers_D = {name: places[name][np.array(found[name], np.int64)] for name in known}
        return Described(np.array(scores, np.float64), np.array(tokens, np.int64), names, numbers_D)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.tag_scores_D)


def run(job: Job) -> Outcome:
    """Write the curated documents in two tiers and every drop with its reason."""
    config: RetrievalDedupConfig = job.config
    built = job.inputs.get("embedding")
    embedding = TextEmbedding.load(built.path) if built else None
    items = read_targets(job.inputs["problems"].path, config.evaluation_tables)
    targets = TargetIndex(items, config.contamination_ngram)
    everything = order_by_id(job.inputs["tagged"].path / "documents", job.scratch / "ordered")
    job.progress(0.1, "decontaminating")
    clean, dropped = drop_gated_and_contaminated(everything, targets, job.scratch / "clean")
    job.progress(0.3, "removing duplicates")
    kept, duplicates, evidence = drop_duplicates(clean, config, job.scratch / "dedup")
    dropped += duplicates
    if config.semantic_cosine:
        kept, duplicates = drop_same_meaning(kept, embed_whole(kept, config, embedding), config)
        dropped += duplicates
    cut: list[Row] = []
    if config.paragraph_characters:
        named = {item.kept_id for item in dropped}
        kept, duplicates, cut = cut_repeated_paragraphs(kept, TAGGED_SCHEMA, named, config, job.scratch / "paragraphs")
        dropped += duplicates
        write_rows(job.work / "paragraphs.parquet", PARAGRAPH_SCHEMA, cut)
    job.progress(0.6, "retrieving from seeds")
    described = Described.of(kept)
    if not len(described):
        raise EmptyPoolError(
            f"none of {len(dropped)} documents is left ({dict(Counter(item.reason for item in dropped))}). Lower the "
            "gates of quality tagging, or ingest other documents."
        )
    scored = score_documents(kept, described, config, embedding)
    high_D = choose_high_tier(scored.final_D, described.tokens_D, config.hq_token_share)
    curated = _curated_rows(kept, described, scored, high_D)
    write_shards(job.work / "documents", CURATED_SCHEMA, curated, rows_per_file=ROWS_PER_FILE)
    drops = (vars(item) for item in sorted(dropped, key=lambda item: item.id))
    write_rows(job.work / "dropped.parquet", DROPPED_SCHEMA, drops)
    job.progress(0.9, "looking for twins that are left")
    return _report(everything, clean, kept, described, high_D, dropped, evidence, cut, targets, scored.seeds, config)


def order_by_id(documents: Path, folder: Path) -> Pool:
    """Return the tagged documents in the order of their ids, as files of `folder`."""
    order = pc.sort_indices(read_table(documents, ["id"])["id"]).to_numpy().astype(np.int64)
    batches = (batch.cast(TAGGED_SCHEMA) for batch in read_batches(documents, TAGGED_SCHEMA.names))
    return Pool(tuple(reorder(batches, ranks_of(order), TAGGED_SCHEMA, folder, rows_per_file=ROWS_PER_FILE)))


def embed_whole(
    pool: Pool, config: RetrievalDedupConfig, embedding: TextEmbedding | None = None
) -> NDArray[np.float32]:
    """Return unit vectors [D, V] of whole documents, for semantic deduplication; all their terms are held at once."""
    if embedding:
        return replace(embedding, characters=WHOLE_CHARACTERS).embed(list(pool.texts()))
    counts = count_terms(pool.texts(), dense=True, characters=WHOLE_CHARACTERS)
    return dense_vectors(counts, config.semantic_vector_size, config.seed)


def read_targets(problems: Path, tables: Sequence[EvaluationTable] = ()) -> list[tuple[str, str]]:
    """Return (id, text) of everything that measures the model: held-out and evaluation prompts, HumanEval, `tables`.

    Raises SourceError for a row that cannot be read: an item that is left out could be trained on.
    """
    rows = read_rows(problems / "prompts.parquet", columns=("id", "split", "prompt"))
    own = [(row["id"], row["prompt"]) for row in rows if row["split"] in ("heldout", "eval")]
    return [*own, *human_eval_prompts(), *_table_items(tables)]


def _table_items(tables: Sequence[EvaluationTable]) -> Iterator[tuple[str, str]]:
    for table in tables:
        for file in expand_paths(table.path):
            for row in read_path(file, table.text_field):
                if row.text is None:
                    raise SourceError(
                        f"{file}: evaluation item {row.key} cannot be read ({row.problem}), so documents that quote it "
                        "would stay. Correct the row or take it out of the table."
                    )
                yield row.key, row.text


def drop_gated_and_contaminated(pool: Pool, targets: TargetIndex, folder: Path) -> tuple[Pool, list[Dropped]]:
    """Remove documents that fail a format gate or share a long run with an evaluation item; write the others."""
    dropped: list[Dropped] = []

    def keep() -> Iterator[Row]:
        for row in pool.rows():
            hit = None if row["gate"] else targets.find(row["text"])
            if row["gate"]:
                dropped.append(Dropped(row["id"], f"gate_{row['gate'].split('<')[0]}", "", 0.0))
            elif hit is not None:
                dropped.append(Dropped(row["id"], "contaminated", hit.target, float(hit.shared)))
            else:
                yield row

    return Pool.write(folder, TAGGED_SCHEMA, keep()), dropped


@dataclass(frozen=True)
class Scored:
    """Similarity to the seeds and final score of each kept document, and which documents were the seeds."""

    similarity_D: NDArray[np.float64]
    final_D: NDArray[np.float64]
    seeds: NDArray[np.int64]


def score_documents(
    pool: Pool, described: Described, config: RetrievalDedupConfig, embedding: TextEmbedding | None = None
) -> Scored:
    """Score each document by its labels and by how the seeds recall it.

    Seeds recall through BM25 and vectors: those of `embedding`, else latent ones of the pool itself. Raises
    RecallError when the seeds may recall nothing.
    """
    seeds = pick_seeds(described, config.seeds_per_category)
    similarity_D = retrieve_from_seeds(
        pool.texts,
        seeds,
        depth=config.retrieved_per_seed,
        k=config.fusion_k,
        vectors=_pool_vectors(pool, len(described), config, embedding),
        allowed=_trusted(described, config),
    )
    if len(described) > 1 and not similarity_D.any():
        raise RecallError(
            f"{len(seeds)} seeds recall none of {len(described)} documents; trusted_sources is "
            f"{list(config.trusted_sources) or 'all'}, trusted_score {config.trusted_score:g}, and the pool has the "
            f"sources {list(described.names['source'])}. Trust more, or the similarity says nothing."
        )
    tag_rank_D = normalise_ranks(described.tag_scores_D)
    final_D = config.tag_weight * tag_rank_D + (1 - config.tag_weight) * normalise_ranks(similarity_D)
    return Scored(similarity_D, final_D, seeds)


def _pool_vectors(
    pool: Pool, documents: int, config: RetrievalDedupConfig, embedding: TextEmbedding | None
) -> FindVectors:
    if embedding:
        return lambda numbers, texts: embedding.embed(texts)
    return find_latent_vectors(pool.texts, documents, config.vector_size, config.seed)


def _trusted(described: Described, config: RetrievalDedupConfig) -> NDArray[np.bool_] | None:
    if not config.trusted_sources and not config.trusted_score:
        return None
    trusted_D = described.tag_scores_D >= config.trusted_score
    if config.trusted_sources:
        known = np.isin(described.names["source"], config.trusted_sources)
        trusted_D &= known[described.numbers_D["source"]]
    return trusted_D


def pick_seeds(described: Described, count: int) -> NDArray[np.int64]:
    """Return the numbers of the `count` best-tagged documents of each category and language, ascending."""
    groups_D = _groups(described)
    best = np.argsort(-described.tag_scores_D, kind="stable")
    return np.sort(np.concatenate([best[groups_D[best] == group][:count] for group in np.unique(groups_D)]))


def _groups(described: Described) -> NDArray[np.int64]:
    """Return a number for the category and language of each document, in the order of their names."""
    return described.numbers_D["category"] * len(described.names["language"]) + described.numbers_D["language"]


def normalise_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return average ranks scaled to 0-1; ties share one."""
    return (rankdata(values) - 0.5) / max(1, len(values))


def choose_high_tier(
    final_D: NDArray[np.float64], tokens_D: NDArray[np.int64], hq_token_share: float
) -> NDArray[np.bool_]:
    """Return which documents are of the high tier: the best that together hold `hq_token_share` of the tokens."""
    best = np.argsort(-final_D, kind="stable")
    before = np.cumsum(tokens_D[best]) - tokens_D[best]
    high_D = np.empty(len(best), bool)
    high_D[best] = before < hq_token_share * tokens_D.sum()
    return high_D


def _curated_rows(pool: Pool, described: Described, scored: Scored, high_D: NDArray[np.bool_]) -> Iterator[Row]:
    kept = [name for name in CURATED_SCHEMA.names if name in TAGGED_SCHEMA.names]
    for number, row in enumerate(pool.rows(*kept)):
        yield row | {
            "similarity": float(scored.similarity_D[number]),
            "final_score": float(scored.final_D[number]),
            "tier": "hq" if high_D[number] else "mq",
            "tokens_estimate": int(described.tokens_D[number]),
        }


def _report(
    everything: Pool,
    clean: Pool,
    kept: Pool,
    described: Described,
    high_D: NDArray[np.bool_],
    dropped: list[Dropped],
    evidence: DedupResult,
    cut: list[Row],
    targets: TargetIndex,
    seeds: NDArray[np.int64],
    config: RetrievalDedupConfig,
) -> Outcome:
    reasons = Counter(item.reason for item in dropped)
    read = len(described) + len(dropped)
    before, _ = measure_twin_share(clean.texts, evidence.documents, dedup_settings(config))
    after, audited = measure_twin_share(kept.texts, len(described), dedup_settings(config))
    hq_tokens, tokens = int(described.tokens_D[high_D].sum()), int(described.tokens_D.sum())
    return Outcome(
        summary=f"Kept {len(described):,} of {read:,} documents; dropped {len(dropped):,}, each with evidence. "
        f"The high-quality tier holds {hq_tokens / max(1, tokens):.1%} of the estimated tokens.",
        counts={
            "read": read,
            "kept": len(described),
            "dropped": len(dropped),
            **{f"dropped_{reason}": count for reason, count in sorted(reasons.items())},
            "hq": int(high_D.sum()),
            "mq": int((~high_D).sum()),
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
            Section(title="Tiers", table=_tier_table(described, high_D)),
            Section(
                title="Why documents were dropped",
                table=count_rows(reasons, "reason", "documents"),
            ),
            *_alarm_sections(evidence),
            *_paragraph_sections(cut),
            Section(title="Removed and kept, examples", table=_examples(dropped, everything)),
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


def _tier_table(described: Described, high_D: NDArray[np.bool_]) -> list[Row]:
    groups_D = _groups(described)
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


def _examples(dropped: list[Dropped], everything: Pool) -> list[Row]:
    chosen: list[Dropped] = []
    for _, group in itertools.groupby(
        sorted(dropped, key=lambda item: (item.reason, item.id)), lambda item: item.reason
    ):
        chosen += list(itertools.islice(group, 3))
    shown = {name for item in chosen for name in (item.id, item.kept_id)}
    texts = {row["id"]: row["text"] for row in everything.rows("text") if row["id"] in shown}
    return [
        {
            "reason": item.reason,
            "removed": texts[item.id][:120],
            "kept": texts.get(item.kept_id, item.kept_id)[:120],
            "score": round(item.score, 3),
        }
        for item in chosen
    ]
