import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.data.decontamination import TargetIndex, human_eval_prompts
from nanbeige_core.data.hashing import unit_hashes
from nanbeige_core.data.minhash import find_near_duplicates, jaccard, shingle_set
from nanbeige_core.data.quality_tagging import TAGGED_SCHEMA
from nanbeige_core.data.retrieval import fuse_ranks, retrieve_from_seeds
from nanbeige_core.data.retrieval_dedup import assign_tiers, drop_duplicates, normalise_ranks, run
from nanbeige_core.data.tables import read_rows, write_rows
from nanbeige_core.recipe.configs.data import RetrievalDedupConfig
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


def kept_ids(rows: list[dict[str, Any]]) -> set[str]:
    return {row["id"] for row in drop_duplicates(rows, RetrievalDedupConfig())[0]}


def test_punctuation_and_case_do_not_change_the_units() -> None:
    assert np.array_equal(unit_hashes("A.b, c!")[0], unit_hashes("a b c")[0])


def test_each_chinese_character_is_a_unit() -> None:
    units, cjk = unit_hashes("床前明月光 abc")
    assert len(units) == 6
    assert cjk == 5 / 6


def test_jaccard_of_a_hand_case() -> None:
    first, second = np.array([1, 2, 3], np.uint64), np.array([2, 3, 4, 5], np.uint64)
    assert jaccard(first, second) == pytest.approx(2 / 5)


def test_the_better_of_two_near_duplicates_stays() -> None:
    text = prose(1)
    assert kept_ids([document("a", text, 3.0), document("b", edit(text, 1), 4.0)]) == {"b"}


def test_the_longer_one_stays_when_scores_tie() -> None:
    text = prose(1)
    assert kept_ids([document("a", text), document("b", text + " more")]) == {"b"}


def test_different_documents_stay() -> None:
    assert kept_ids([document("a", prose(1)), document("b", prose(2))]) == {"a", "b"}


def test_short_copies_fall_to_exact_matching() -> None:
    assert kept_ids([document("a", "Hello there"), document("b", "hello, there!"), document("c", "bye")]) == {"b", "c"}


def test_near_duplicate_chinese_is_found() -> None:
    text = "".join(random.Random(3).choices([chr(0x4E00 + n) for n in range(900)], k=300))
    assert len(kept_ids([document("a", text), document("b", text[:150] + "改" + text[151:])])) == 1


def test_a_document_is_removed_only_for_a_kept_twin() -> None:
    # a chain: each link is a twin of its neighbours alone
    texts = [prose(5, 200)]
    for step in range(1, 12):
        words = texts[-1].split()
        words[step * 15 : step * 15 + 4] = [f"new{step}{place}" for place in range(4)]
        texts.append(" ".join(words))
    sets = [shingle_set(text, 5, 8) for text in texts]
    found = find_near_duplicates(sets, range(len(texts)), bands=40, rows=3, threshold=0.8, seed=1)
    removed = {removal.index for removal in found.removals}
    assert 0 < len(removed) < len(texts) - 1
    assert all(jaccard(sets[r.index], sets[r.kept]) >= 0.8 and r.kept not in removed for r in found.removals)


def test_minhash_finds_most_planted_twins() -> None:
    originals = [prose(seed, 200) for seed in range(150)]
    sets = [shingle_set(text, 5, 8) for text in [*originals, *(edit(text, 1) for text in originals)]]
    found = find_near_duplicates(sets, range(300), bands=14, rows=8, threshold=0.8, seed=1)
    assert len(found.removals) >= 0.95 * 150


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


def test_seeds_recall_their_own_topic() -> None:
    plants = [f"the green plant grows leaf root soil {WORDS[n]}" for n in range(20)]
    stars = [f"a bright star orbits galaxy telescope night {WORDS[n + 50]}" for n in range(20)]
    score = retrieve_from_seeds(plants + stars, np.array([0, 1]), depth=10, k=60, vector_size=8, seed=0)
    assert score[2:20].sum() > 0.95 * score.sum() - score[:2].sum()
    assert score[20:].sum() < 0.05 * score.sum()


def test_rank_fusion_of_a_hand_case() -> None:
    scores = np.array([[9.0, 3.0, 1.0]], np.float32)
    assert fuse_ranks([scores, scores], np.array([0]), 2, 60.0) == pytest.approx([0, 2 / 61, 2 / 62])


def test_normalised_ranks_lie_between_zero_and_one() -> None:
    assert normalise_ranks(np.array([5.0, 1.0, 5.0])) == pytest.approx([0.667, 0.167, 0.667], abs=1e-3)


def test_the_high_tier_holds_its_token_share() -> None:
    rows = [document(str(n), "x" * 330, final_score=n / 100) for n in range(100)]
    assign_tiers(rows, 0.52)
    assert sum(row["tier"] == "hq" for row in rows) == 52
    assert all(row["tier"] == "hq" for row in rows[-52:])


def stage_rows() -> list[dict[str, Any]]:
    rows = [document(f"d{n:03d}", prose(n), float(n % 9)) for n in range(60)]
    rows += [document(f"e{n:03d}", edit(prose(n), 1), float(n % 7)) for n in range(20)]
    leaked = "In split eval, Anna has 7 red apples and 7 green apples. How many apples has she?"
    rows.append(document("leak", prose(100) + " " + leaked))
    rows.append(document("gated", prose(101), gate="readability<1"))
    return rows


def curate(make_job: MakeJob, problems: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    folder = problems.parent / f"{name}-tagged"
    write_rows(folder / "documents" / "0.parquet", TAGGED_SCHEMA, rows)
    inputs = {"tagged": (Kind.TAGGED_CORPUS, folder), "problems": (Kind.PROMPT_SET, problems)}
    job = make_job(name, RetrievalDedupConfig(vector_size=8), **inputs)
    outcome = run(job)
    return {
        "kept": list(read_rows(job.work / "documents")),
        "dropped": list(read_rows(job.work / "dropped.parquet")),
        "outcome": outcome,
    }


def test_the_result_does_not_depend_on_row_order(make_job: MakeJob, problems: Path) -> None:
    rows = stage_rows()
    first = curate(make_job, problems, "ordered", rows)
    random.Random(4).shuffle(rows)
    second = curate(make_job, problems, "shuffled", rows)
    assert first["kept"] == second["kept"]
    assert first["dropped"] == second["dropped"]


def test_every_document_is_kept_or_dropped_with_a_reason(make_job: MakeJob, problems: Path) -> None:
    result = curate(make_job, problems, "all", stage_rows())
    ids = [row["id"] for row in result["kept"] + result["dropped"]]
    reasons = {row["id"]: row["reason"] for row in result["dropped"]}
    assert sorted(ids) == sorted(row["id"] for row in stage_rows())
    assert reasons["leak"] == "contaminated"
    assert reasons["gated"] == "gate_readability"
    assert sum(reason == "near_duplicate" for reason in reasons.values()) >= 19
    assert result["outcome"].gain.after <= result["outcome"].gain.before
