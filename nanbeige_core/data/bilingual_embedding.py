"""The stage that builds the bilingual embedding and lets it pass only if pages find their translations."""

import heapq
import json
import random

import numpy as np
from numpy.typing import NDArray

from nanbeige_core.contract import Gain, Job, Outcome, Section
from nanbeige_core.data.embedding import TextEmbedding, fit_embedding, measure_retrieval, without_latin
from nanbeige_core.data.latent import dense_vectors
from nanbeige_core.data.sources.aligned import AlignedPage, read_aligned
from nanbeige_core.data.tables import read_rows
from nanbeige_core.data.terms import bm25_between, count_terms
from nanbeige_core.recipe.configs.data import BilingualEmbeddingConfig

CONDITION = "second language alone"
"""The condition that decides: Latin runs, which often stay untranslated, are taken out of the Chinese pages."""

Scores = dict[str, dict[str, float]]


class EmbeddingError(ValueError):
    """An embedding cannot be built, or does not find translations well enough to be used."""


def run(job: Job) -> Outcome:
    """Write the embedding; raises EmbeddingError when held-out pages do not find their translations."""
    config: BilingualEmbeddingConfig = job.config
    pages = read_aligned(config.aligned, job.cache / "downloads")
    train, held_out = split_pages(pages, config)
    job.progress(0.1, f"fitting on {len(train)} aligned pages")
    documents = _draw_pool(job, {page.key for page in held_out}, config)
    embedding = fit_embedding(
        [(page.first, page.second) for page in train],
        documents,
        size=config.vector_size,
        buckets=config.hash_buckets,
        characters=config.characters,
        pair_weight=config.pair_weight,
        seed=config.seed,
    )
    job.progress(0.8, f"retrieving among {len(held_out)} held-out pages")
    scores = compare_retrievers(embedding, held_out, config)
    reached = min(
        scores[f"embedding, {CONDITION}, {way}"]["recall@10"] for way in ("first to second", "second to first")
    )
    if reached < config.required_recall:
        raise EmbeddingError(
            f"held-out recall@10 is {reached:.3f}, required_recall is {config.required_recall:g}: an embedding that "
            f"does not find translations recalls at random. {len(train)} pages were aligned; add more, raise "
            "vector_size, or recall without an embedding."
        )
    embedding.save(job.work)
    return _report(scores, len(train), len(held_out), len(documents), reached)


def split_pages(
    pages: list[AlignedPage], config: BilingualEmbeddingConfig
) -> tuple[list[AlignedPage], list[AlignedPage]]:
    """Return the pages to fit on and those held out; raises EmbeddingError when there are too few."""
    if len(pages) < 2 * config.held_out_pages:
        raise EmbeddingError(
            f"{config.aligned} holds {len(pages)} aligned pages; {config.held_out_pages} are held out and at least as "
            "many must be left to fit on. Lower held_out_pages or name a larger table."
        )
    order = sorted(pages)
    random.Random(config.seed).shuffle(order)
    return order[config.held_out_pages :], order[: config.held_out_pages]


def compare_retrievers(
    embedding: TextEmbedding, held_out: list[AlignedPage], config: BilingualEmbeddingConfig
) -> Scores:
    """Return what each retriever finds, by condition and direction; the others know no translation."""
    first = [page.first for page in held_out]
    scores: Scores = {}
    for condition, second in (
        ("pages as they are", [page.second for page in held_out]),
        (CONDITION, [without_latin(page.second) for page in held_out]),
    ):
        counts = count_terms(first + second, dense=True)
        latent = dense_vectors(counts, config.vector_size, config.seed)
        vectors: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {
            "embedding": (embedding.embed(first), embedding.embed(second)),
            "LSA without pairs": (latent[: len(first)], latent[len(first) :]),
        }
        for name, (one, other) in vectors.items():
            scores[f"{name}, {condition}, first to second"] = measure_retrieval(one, other)
            scores[f"{name}, {condition}, second to first"] = measure_retrieval(other, one)
        lexical = bm25_between(first, second)
        eye = np.eye(len(first), dtype=np.float32)
        scores[f"BM25, {condition}, first to second"] = measure_retrieval(lexical, eye)
    return scores


def _draw_pool(job: Job, held_out: set[str], config: BilingualEmbeddingConfig) -> list[str]:
    """Return documents of the pool, in an order of their ids, without pieces of held-out pages."""
    rows = read_rows(job.inputs["corpus"].path / "documents", ("id", "text", "provenance"))
    kept = ((row["id"].rsplit("-", 1)[-1], row["text"]) for row in rows if _page_key(row["provenance"]) not in held_out)
    return [text for _, text in heapq.nsmallest(config.documents, kept)]


def _page_key(provenance: str) -> str:
    """Return the page that a document of an aligned package was cut from, named as `read_aligned` names it."""
    member: str = json.loads(provenance).get("member", "")
    return member.partition("/text/")[2]


def _report(scores: Scores, train: int, held_out: int, documents: int, reached: float) -> Outcome:
    table = [{"retriever, condition, direction": name, **_rounded(found)} for name, found in scores.items()]
    before = min(
        scores[f"LSA without pairs, {CONDITION}, {way}"]["recall@10"] for way in ("first to second", "second to first")
    )
    return Outcome(
        summary=f"Fitted on {train:,} aligned pages and {documents:,} documents; held-out pages find their translation "
        f"among {held_out} within ten with recall {reached:.3f}, Latin runs taken out.",
        counts={"aligned_pages": train, "held_out_pages": held_out, "documents": documents},
        metrics={
            "recall_at_10": reached,
            "recall_at_1": min(
                scores[f"embedding, {CONDITION}, {way}"]["recall@1"] for way in ("first to second", "second to first")
            ),
        },
        gain=Gain(
            metric=f"recall@10 of a held-out page for its translation among {held_out}, Latin runs taken out",
            before=before,
            after=reached,
            n=held_out,
        ),
        sections=[
            Section(
                title="Retrieval between the languages",
                text="Each held-out page looks for its translation among all of them. Where pages are as they are, "
                "words that were left untranslated help every retriever; without Latin runs only meaning is left.",
                table=table,
            )
        ],
    )


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found.items()}
