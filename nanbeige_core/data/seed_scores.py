"""Scores of curated documents: the tag score and how strongly the best documents recall one, as two tiers."""

import importlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from nanbeige_core.data.embedding import TextEmbedding
from nanbeige_core.data.latent import FindVectors, find_latent_vectors
from nanbeige_core.data.pool import Part, Pool
from nanbeige_core.data.retrieval import retrieve_from_seeds
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig

pc: Any = importlib.import_module("pyarrow.compute")  # its functions are made at import: no types

# Shapes: D documents in the order of their ids.

CHARACTERS_PER_TOKEN = {"en": 3.3, "zh": 1.1, "code": 3.0, "other": 2.5}
"""Rough, for the tier quantile alone; true counts come from the tokenizer."""

NAMES = ("source", "category", "language")


class RecallError(ValueError):
    """The seeds recall nothing, so the similarity of documents would be noise."""


@dataclass(frozen=True)
class Described:
    """What scoring and tiers need of the kept documents; names are numbers into the sorted values of their column."""

    tag_scores_D: NDArray[np.float64]
    tokens_D: NDArray[np.int64]
    names: dict[str, tuple[str, ...]]
    numbers_D: dict[str, NDArray[np.int64]]

    @staticmethod
    def of(pool: Pool, workers: int = 1) -> "Described":
        """Read a pool once; tokens are estimated from characters."""
        scores, tokens = [np.empty(0, np.float64)], [np.empty(0, np.int64)]
        found: dict[str, list[pa.ChunkedArray]] = {name: [] for name in NAMES}
        for table in pool.tables(("tag_score", "text", *NAMES), workers):
            scores.append(table["tag_score"].to_numpy().astype(np.float64))
            tokens.append(_estimate_tokens(table))
            for name, values in found.items():
                values.append(table[name].dictionary_encode())
        names: dict[str, tuple[str, ...]] = {}
        numbers_D: dict[str, NDArray[np.int64]] = {}
        for name, values in found.items():
            joined = pa.chunked_array(
                [chunk for value in values for chunk in value.chunks], _ENCODED
            ).unify_dictionaries()
            known: list[str] = joined.chunk(0).dictionary.to_pylist() if joined.num_chunks else []
            names[name] = tuple(sorted(known))
            places = np.argsort(np.argsort(np.array(known, dtype=object)))
            indices = [chunk.indices.to_numpy() for chunk in joined.chunks]
            numbers_D[name] = places[np.concatenate([np.empty(0, np.int64), *indices])]
        return Described(np.concatenate(scores), np.concatenate(tokens), names, numbers_D)

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.tag_scores_D)

    def groups(self) -> NDArray[np.int64]:
        """Return a number for the category and language of each document [D], in the order of their names."""
        return self.numbers_D["category"] * len(self.names["language"]) + self.numbers_D["language"]


_ENCODED = pa.dictionary(pa.int32(), pa.string())


class Scored(NamedTuple):
    """Similarity to the seeds and final score of each kept document, and which documents were the seeds."""

    similarity_D: NDArray[np.float64]
    final_D: NDArray[np.float64]
    seeds: NDArray[np.int64]


def score_documents(
    parts: list[Part],
    described: Described,
    config: RetrievalDedupConfig,
    embedding: TextEmbedding | None = None,
    *,
    workers: int = 1,
) -> Scored:
    """Score each document by its labels and by how the seeds recall it.

    Seeds recall through BM25 and vectors: those of `embedding`, else latent ones of the pool itself. Raises
    RecallError when the seeds may recall nothing.
    """
    seeds = pick_seeds(described, config.seeds_per_category)
    similarity_D = retrieve_from_seeds(
        parts,
        seeds,
        depth=config.retrieved_per_seed,
        k=config.fusion_k,
        vectors=_pool_vectors(parts, config, embedding, workers),
        allowed=_trusted(described, config),
        workers=workers,
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


def pick_seeds(described: Described, count: int) -> NDArray[np.int64]:
    """Return the numbers of the `count` best-tagged documents of each category and language, ascending."""
    groups_D = described.groups()
    best = np.argsort(-described.tag_scores_D, kind="stable")
    return np.sort(np.concatenate([best[groups_D[best] == group][:count] for group in np.unique(groups_D)]))


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


def _estimate_tokens(table: pa.Table) -> NDArray[np.int64]:
    characters = pc.utf8_length(table["text"]).to_numpy()
    rates = np.array([CHARACTERS_PER_TOKEN[language] for language in table["language"].to_pylist()], np.float64)
    return np.maximum(1, np.rint(characters / rates)).astype(np.int64)


def _pool_vectors(
    parts: list[Part], config: RetrievalDedupConfig, embedding: TextEmbedding | None, workers: int
) -> FindVectors:
    if embedding:
        return lambda numbers, texts: embedding.embed(texts)
    return find_latent_vectors(parts, config.vector_size, config.seed, workers)


def _trusted(described: Described, config: RetrievalDedupConfig) -> NDArray[np.bool_] | None:
    if not config.trusted_sources and not config.trusted_score:
        return None
    trusted_D = described.tag_scores_D >= config.trusted_score
    if config.trusted_sources:
        known = np.isin(described.names["source"], config.trusted_sources)
        trusted_D &= known[described.numbers_D["source"]]
    return trusted_D
