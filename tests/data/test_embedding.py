import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.data import bilingual_embedding
from nanbeige_core.data.bilingual_embedding import EmbeddingError
from nanbeige_core.data.embedding import TextEmbedding, fit_embedding, measure_retrieval, without_latin
from nanbeige_core.data.latent import latent_embedder
from nanbeige_core.data.tables import write_rows
from nanbeige_core.recipe.configs.data import BilingualEmbeddingConfig
from tests.data.conftest import MakeJob

TOPICS = 40
WORDS = [f"word{number}" for number in range(6 * TOPICS)]
HAN = [chr(0x4E00 + number) for number in range(6 * TOPICS)]
PAIR_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "first", "second")])
DOCUMENT_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("id", "text", "source", "category", "language", "provenance"))]
    + [("tag_score", pa.float64())]
)


def pages(count: int, seed: int, translated: bool = True) -> list[tuple[str, str]]:
    """Pages about one to three topics; a topic has six words in each language, and pages draw from them freely."""
    source = random.Random(seed)
    result: list[tuple[str, str]] = []
    for _ in range(count):
        topics = source.sample(range(TOPICS), 3)
        units = [6 * source.choice(topics) + source.randrange(6) for _ in range(90)]
        other = units if translated else [source.randrange(6 * TOPICS) for _ in units]
        source.shuffle(other)
        result.append((" ".join(WORDS[at] for at in units), "".join(HAN[at] for at in other)))
    return result


def fit(pairs: list[tuple[str, str]], **changes: Any) -> TextEmbedding:
    values = {"size": 32, "buckets": 4096, "characters": 2000, "pair_weight": 1.0, "seed": 0} | changes
    return fit_embedding(pairs, ["a document of the pool"], **values)


def test_unseen_pages_find_their_translation_although_no_word_is_shared(tmp_path: Path) -> None:
    embedding = fit(pages(300, 1))
    embedding.save(tmp_path)
    loaded = TextEmbedding.load(tmp_path)
    first, second = zip(*pages(60, 2), strict=True)
    found = measure_retrieval(loaded.embed(first), loaded.embed(second))
    assert found["recall@1"] > 0.8
    assert np.array_equal(loaded.embed(first), embedding.embed(first))


def test_pages_that_are_no_translations_teach_nothing() -> None:
    embedding = fit(pages(300, 1, translated=False))
    first, second = zip(*pages(60, 2), strict=True)
    assert measure_retrieval(embedding.embed(first), embedding.embed(second))["recall@10"] < 0.5


def test_constant_vectors_find_nothing() -> None:
    same = np.ones((50, 4), np.float32)
    assert measure_retrieval(same, same) == {"recall@1": 0.0, "recall@10": 0.0, "mrr": pytest.approx(0.02)}


def test_a_text_without_words_has_no_direction() -> None:
    assert not fit(pages(50, 1)).embed(["", "..."]).any()


def test_only_latin_runs_are_taken_out() -> None:
    assert without_latin("打开 File 菜单(2)").split() == ["打开", "菜单"]


def run_stage(make_job: MakeJob, folder: Path, aligned: list[tuple[str, str]], **changes: Any) -> Any:
    rows = [{"key": f"p{n:04d}", "first": first, "second": second} for n, (first, second) in enumerate(aligned)]
    write_rows(folder / "pairs.parquet", PAIR_SCHEMA, rows)
    write_rows(folder / "corpus" / "documents" / "0.parquet", DOCUMENT_SCHEMA, documents())
    config = BilingualEmbeddingConfig(
        aligned=str(folder / "pairs.parquet"), vector_size=32, hash_buckets=4096, held_out_pages=60, **changes
    )
    job = make_job("embedding", config, corpus=(Kind.CORPUS, folder / "corpus"))
    return bilingual_embedding.run(job), job.work


def test_the_stage_reports_recall_of_every_retriever_and_leaves_the_embedding(
    make_job: MakeJob, tmp_path: Path
) -> None:
    outcome, work = run_stage(make_job, tmp_path, pages(300, 1))
    assert outcome.metrics["recall_at_10"] > 0.9
    assert outcome.gain.before < 0.5
    table = {row["retriever, condition, direction"]: row for row in outcome.sections[0].table}
    assert table["BM25, second language alone, first to second"]["recall@10"] < 0.5
    assert TextEmbedding.load(work).projection_FV.shape == (4096, 32)


def test_an_embedding_that_finds_no_translation_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="required_recall is 0.8"):
        run_stage(make_job, tmp_path, pages(300, 1, translated=False))


def test_too_few_aligned_pages_are_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingError, match="holds 70 aligned pages; 60 are held out"):
        run_stage(make_job, tmp_path, pages(70, 1))


def documents() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, (first, second) in enumerate(pages(80, 5)):
        for language, text in (("en", first), ("zh", second)):
            row = {"id": f"{language}-{number:03d}", "text": text, "source": f"s{number % 4}", "category": "web"}
            rows.append(row | {"language": language, "tag_score": float(number % 10), "provenance": "{}"})
    return rows


def test_a_new_text_gets_the_latent_vector_that_the_pool_gives_it() -> None:
    texts = [row["text"] for row in documents()]
    embed = latent_embedder(texts, size=16, seed=0)
    assert np.array_equal(embed(texts)[5], embed([texts[5]])[0])
    assert (embed(texts) @ embed([texts[5]])[0]).argmax() == 5
