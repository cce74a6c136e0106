import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.data import latent, retrieval_dedup
from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.duplicates import drop_duplicates
from nanbeige_core.data.evaluation_items import human_eval_prompts
from nanbeige_core.data.latent import find_latent_vectors
from nanbeige_core.data.pool import Part, Pool
from nanbeige_core.data.quality_tagging import TAGGED_SCHEMA
from nanbeige_core.data.retrieval import Ranking, fuse, retrieve_from_seeds
from nanbeige_core.data.retrieval_dedup import EmptyPoolError, curate
from nanbeige_core.data.seed_scores import RecallError, choose_high_tier, normalise_ranks
from nanbeige_core.data.sources.path import SourceError
from nanbeige_core.data.tables import read_rows, write_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig
from nanbeige_core.recipe.fingerprint import identity_values
from tests.data.conftest import MakeJob

WORDS = [f"word{number}" for number in range(400)]


def prose(seed: int, length: int = 120) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def document(name: str, text: str, score: float = 5.0, **fields: Any) -> dict[str, Any]:
    base = {field.name: 5.0 if str(field.type) == "float" else "" for field in TAGGED_SCHEMA}
    base |= {"source": "s", "category": "web", "language": "en", "licence": "x", "provenance": "{}"}
    return base | {"id": name, "text": text, "tag_score": score} | fields


def edit(text: str, places: int) -> str:
    words = text.split()
    for place in range(places):
        words[place * 40 + 7] = "changed"
    return " ".join(words)


def kept_ids(rows: list[dict[str, Any]], work: Path) -> set[str]:
    pool = Pool.write(work / "clean", TAGGED_SCHEMA, rows)
    return {row["id"] for row in drop_duplicates(pool, RetrievalDedupConfig(), work / "dedup")[0].rows()}


def test_the_better_of_two_near_duplicates_stays(tmp_path: Path) -> None:
    text = prose(1)
    assert kept_ids([document("a", text, 3.0), document("b", edit(text, 1), 4.0)], tmp_path) == {"b"}


def test_the_longer_one_stays_when_scores_tie(tmp_path: Path) -> None:
    text = prose(1)
    assert kept_ids([document("a", text), document("b", text + " more")], tmp_path) == {"b"}


def test_a_document_that_quotes_an_evaluation_item_is_found() -> None:
    index = TargetIndex([("item", prose(9, 30))], 13)
    hit = index.find(prose(1) + " " + prose(9, 30) + " " + prose(2))
    assert hit is not None
    assert (hit.target, hit.shared) == ("item", 18)


def test_a_short_evaluation_item_is_matched_as_a_whole() -> None:
    index = TargetIndex([("item", prose(9, 10))], 13)
    assert index.find("x " + prose(9, 10) + " y") is not None
    assert index.find(prose(1)) is None


def test_human_eval_is_a_decontamination_target() -> None:
    prompts = human_eval_prompts()
    assert len(prompts) == 164
    assert TargetIndex(prompts, 13).find(prompts[0][1]) is not None


def parts_of(texts: list[str], size: int = 1000) -> list[Part]:
    cut = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [Part(len(part), lambda part=part: part) for part in cut]


def recall(texts: list[str], seeds: np.ndarray, size: int = 1000, workers: int = 1) -> np.ndarray:
    parts = parts_of(texts, size)
    vectors = find_latent_vectors(parts, 8, 0, workers)
    return retrieve_from_seeds(parts, seeds, depth=10, k=60, vectors=vectors, workers=workers)


def test_what_seeds_recall_depends_on_neither_parts_nor_threads() -> None:
    texts, seeds = [prose(number, 40) for number in range(90)], np.array([3, 40, 77])
    once = recall(texts, seeds)
    assert once.any()
    for size, workers in ((32, 1), (32, 2), (7, 3)):
        assert recall(texts, seeds, size, workers).tobytes() == once.tobytes()


def test_the_latent_space_of_a_sample_still_finds_the_topic_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "LATENT_DOCUMENTS", 15)
    plants = [f"the green plant grows leaf root soil {WORDS[n]}" for n in range(20)]
    stars = [f"a bright star orbits galaxy telescope night {WORDS[n + 50]}" for n in range(20)]
    score = recall(plants + stars, np.array([0, 1]), size=7, workers=2)
    assert score[20:].sum() < 0.05 * score.sum()


def test_seeds_recall_their_own_topic() -> None:
    plants = [f"the green plant grows leaf root soil {WORDS[n]}" for n in range(20)]
    stars = [f"a bright star orbits galaxy telescope night {WORDS[n + 50]}" for n in range(20)]
    texts = plants + stars
    score = recall(texts, np.array([0, 1]))
    assert score[2:20].sum() > 0.95 * score.sum() - score[:2].sum()
    assert score[20:].sum() < 0.05 * score.sum()


def test_rank_fusion_of_a_hand_case() -> None:
    ranking = Ranking.empty(1, 2)
    ranking.add(np.array([[9.0, 3.0, 1.0]], np.float32), np.arange(3), np.array([0]))
    assert fuse([ranking, ranking], 3, 60.0) == pytest.approx([0, 2 / 61, 2 / 62])


def test_a_ranking_keeps_the_best_and_of_equal_ones_the_first() -> None:
    scores = np.random.default_rng(0).integers(0, 6, (3, 80)).astype(np.float32)
    queries = np.array([0, 1, 79])
    ranking = Ranking.empty(3, 9)
    for start in range(0, 80, 13):
        ranking.add(scores[:, start : start + 13], np.arange(80)[start : start + 13], queries)
    for query, own in enumerate(queries):
        rest = scores[query].copy()
        rest[own] = 0
        assert ranking.documents[query].tolist() == np.argsort(-rest, kind="stable")[:9].tolist()


def test_normalised_ranks_lie_between_zero_and_one() -> None:
    assert normalise_ranks(np.array([5.0, 1.0, 5.0])) == pytest.approx([0.667, 0.167, 0.667], abs=1e-3)


def test_the_high_tier_holds_its_token_share() -> None:
    high = choose_high_tier(np.arange(100) / 100, np.full(100, 100), 0.52)
    assert high.tolist() == [False] * 48 + [True] * 52


def stage_rows() -> list[dict[str, Any]]:
    rows = [document(f"d{n:03d}", prose(n), float(n % 9)) for n in range(60)]
    rows += [document(f"e{n:03d}", edit(prose(n), 1), float(n % 7)) for n in range(20)]
    leaked = "In split eval, Anna has 7 red apples and 7 green apples. How many apples has she?"
    rows.append(document("leak", prose(100) + " " + leaked))
    rows.append(document("gated", prose(101), gate="readability<1"))
    return rows


def curated(
    make_job: MakeJob, problems: Path, name: str, rows: list[dict[str, Any]], *, workers: int = 1, **changes: Any
) -> dict[str, Any]:
    folder = problems.parent / f"{name}-tagged"
    write_rows(folder / "documents" / "0.parquet", TAGGED_SCHEMA, rows)
    inputs = {"tagged": (Kind.TAGGED_CORPUS, folder), "problems": (Kind.PROMPT_SET, problems)}
    job = make_job(name, RetrievalDedupConfig(vector_size=8, **changes), **inputs)
    outcome = curate(job, workers)
    return {
        "kept": list(read_rows(job.work / "documents")),
        "dropped": list(read_rows(job.work / "dropped.parquet")),
        "outcome": outcome,
        "bytes": [file.read_bytes() for file in sorted(job.work.rglob("*.parquet")) if job.scratch not in file.parents],
    }


def test_the_result_does_not_depend_on_row_order(make_job: MakeJob, problems: Path) -> None:
    rows = stage_rows()
    first = curated(make_job, problems, "ordered", rows)
    random.Random(4).shuffle(rows)
    second = curated(make_job, problems, "shuffled", rows)
    assert first["kept"] == second["kept"]
    assert first["dropped"] == second["dropped"]


def test_the_files_do_not_depend_on_the_cores(
    make_job: MakeJob, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_dedup, "ROWS_PER_FILE", 16)
    first, second = (curated(make_job, problems, f"on-{workers}", stage_rows(), workers=workers) for workers in (1, 3))
    assert len(first["bytes"]) > 3
    assert first["bytes"] == second["bytes"]
    assert first["outcome"] == second["outcome"]


def test_every_document_is_kept_or_dropped_with_a_reason(make_job: MakeJob, problems: Path) -> None:
    result = curated(make_job, problems, "all", stage_rows())
    ids = [row["id"] for row in result["kept"] + result["dropped"]]
    reasons = {row["id"]: row["reason"] for row in result["dropped"]}
    assert sorted(ids) == sorted(row["id"] for row in stage_rows())
    assert reasons["leak"] == "contaminated"
    assert reasons["gated"] == "gate_readability"
    assert sum(reason == "near_duplicate" for reason in reasons.values()) >= 19
    assert result["outcome"].gain.after <= result["outcome"].gain.before


def test_items_of_a_table_of_ones_own_are_kept_out_and_each_must_be_readable(make_job: MakeJob, problems: Path) -> None:
    table = problems.parent / "exam.jsonl"
    table.write_text(json.dumps({"question": prose(55, 20)}) + "\n")
    rows = [document("quotes", prose(1) + " " + prose(55, 20)), document("other", prose(2)), document("more", prose(3))]
    tables = ({"path": str(table), "text_field": "question"},)
    dropped = curated(make_job, problems, "exam", rows, evaluation_tables=tables)["dropped"]
    assert [(row["id"], row["reason"], row["kept_id"]) for row in dropped] == [
        ("quotes", "contaminated", "exam.jsonl:1")
    ]
    table.write_text(table.read_text() + '{"question": 7}\n')
    with pytest.raises(SourceError, match=r"exam\.jsonl:2 cannot be read \(not_text\)"):
        curated(make_job, problems, "broken", rows, evaluation_tables=tables)


def test_a_pool_of_which_one_document_is_left_is_curated(make_job: MakeJob, problems: Path) -> None:
    result = curated(make_job, problems, "one", [document(name, prose(1)) for name in "abc"])
    assert [row["id"] for row in result["kept"]] == ["a"]
    assert {(row["reason"], row["kept_id"]) for row in result["dropped"]} == {("exact_duplicate", "a")}


def test_a_pool_of_which_nothing_is_left_is_an_error_with_the_reasons(make_job: MakeJob, problems: Path) -> None:
    rows = [document(str(number), prose(number), gate="readability<1") for number in range(3)]
    with pytest.raises(EmptyPoolError, match="'gate_readability': 3"):
        curated(make_job, problems, "gated", rows)


def test_seeds_that_may_recall_nothing_are_an_error_that_lists_what_there_is(make_job: MakeJob, problems: Path) -> None:
    rows = [
        document(f"d{number}", prose(number), 9.0 - number, source=("good", "bad")[number % 2]) for number in range(6)
    ]
    with pytest.raises(RecallError, match=r"trusted_sources is \['gone'\].*\['bad', 'good'\]"):
        curated(make_job, problems, "gone", rows, trusted_sources=("gone",))
    kept = curated(make_job, problems, "bad", rows, trusted_sources=("bad",), trusted_score=5.0, seeds_per_category=1)
    similar = {row["id"] for row in kept["kept"] if row["similarity"] > 0}
    assert similar == {"d1", "d3"}


def test_optional_removals_leave_evidence_and_a_kept_document_for_each(make_job: MakeJob, problems: Path) -> None:
    shared, story = prose(700, 30), prose(701, 200)
    rows = [*stage_rows(), document("p1", prose(710) + "\n\n" + shared), document("p2", prose(711) + "\n\n" + shared)]
    # another order of the same words: no five in a row are shared, and the vectors are all but equal
    lines = [" ".join(story.split()[start : start + 4]) for start in range(0, 200, 4)]
    rows += [document("said", " ".join(lines), 8.0), document("said-again", " ".join(reversed(lines)), 1.0)]
    changes = {"paragraph_characters": 100, "semantic_cosine": 0.9, "semantic_vector_size": 64}
    first = curated(make_job, problems, "first", rows, **changes)
    random.Random(4).shuffle(rows)
    second = curated(make_job, problems, "second", rows, **changes)
    assert (first["kept"], first["dropped"]) == (second["kept"], second["dropped"])
    kept = {row["id"] for row in first["kept"]}
    meaning = {row["id"]: row for row in first["dropped"] if row["reason"] == "semantic_duplicate"}
    assert meaning["said-again"]["kept_id"] == "said"
    assert {row["kept_id"] for row in meaning.values()} <= kept
    assert sum(shared in row["text"] for row in first["kept"]) == 1
    assert first["outcome"].counts["paragraphs_cut"] == 1


def test_what_is_off_leaves_the_fingerprint_alone() -> None:
    assert not any(
        name.startswith(("paragraph", "semantic", "trusted", "evaluation"))
        for name in identity_values(RetrievalDedupConfig())
    )
