import math

import numpy as np
import pytest

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome, Section
from nanbeige_core.errors import ArtifactError
from nanbeige_core.report.inspection.reading import decile_rows
from nanbeige_core.report.inspection.registry import inspect
from nanbeige_core.report.stage_report import html_report
from nanbeige_core.stages import STAGES
from tests.report.building import HOSTILE, Page, as_json, as_table, plan_of, seal_stage

SOURCES = ("news", "books")


def documents(score: str, **further: object) -> list[dict[str, object]]:
    return [
        {"id": f"d-{at}", "text": f"text {at} {HOSTILE}", "source": SOURCES[at % 2], "category": "web",
         "language": "zh" if at % 4 == 0 else "en", score: float(at), **further}
        for at in range(100)
    ]  # fmt: skip


def section(sections: list[Section], title: str) -> Section:
    return next(one for one in sections if one.title == title)


def seal_tagged(store: Store) -> Manifest:
    rows = documents("tag_score", gate="")
    for at, row in enumerate(rows):
        row["originality"] = at % 10 + 0.2
    rows[7]["gate"] = "readability<1"
    shards = {"documents/00000.parquet": as_table(rows[:60]), "documents/00001.parquet": as_table(rows[60:])}
    return seal_stage(store, plan_of(store), "quality_tagging", Outcome(summary="tagged"), shards)


def seal_curated(store: Store) -> Manifest:
    seal_tagged(store)
    dropped = [
        {"id": "d-1", "reason": "near_duplicate", "kept_id": "d-2", "score": 0.9},
        {"id": "d-3", "reason": "exact_duplicate", "kept_id": "d-2", "score": 1.0},
        {"id": "d-7", "reason": "gate_readability", "kept_id": "", "score": 0.0},
    ]
    kept = [row for row in documents("final_score", tier="hq") if row["id"] not in {"d-1", "d-3", "d-7"}]
    files = {"documents/00000.parquet": as_table(kept), "dropped.parquet": as_table(dropped)}
    return seal_stage(store, plan_of(store), "retrieval_dedup", Outcome(summary="curated"), files)


def test_a_tagged_corpus_counts_sources_languages_labels_and_gates(store: Store) -> None:
    sections = inspect(store, seal_tagged(store))
    assert section(sections, "Documents by language").table == [
        {"language": "en", "documents": 75},
        {"language": "zh", "documents": 25},
    ]
    origin = section(sections, "Documents by source and language")
    assert origin.table[1] == {"source": "news", "documents": 50, "en": 25, "zh": 25}
    assert origin.plot is not None
    labels = section(sections, "Labels").table
    assert [row["label"] for row in labels] == ["originality"]
    assert all(labels[0][str(at)] == 10 for at in range(10))
    gated = section(sections, "Gated by source and reason").table
    assert gated == [{"source": "books", "documents": 1, "readability<1": 1}]


def test_each_decile_shows_ten_examples_of_its_own_scores(store: Store) -> None:
    deciles = [one for one in inspect(store, seal_tagged(store)) if one.title.startswith("Examples of decile")]
    assert len(deciles) == 10
    for number, one in enumerate(deciles):
        assert [row["tag_score"] for row in one.table] == [float(10 * number + at) for at in range(10)]
        assert one.table[0]["text"].startswith(f"text {10 * number} ")


def test_a_curated_corpus_says_what_went_why_and_for_which_twin(store: Store) -> None:
    sections = inspect(store, seal_curated(store))
    reasons = section(sections, "Dropped by source and reason").table
    assert reasons == [
        {"source": "books", "dropped": 3, "exact_duplicate": 1, "gate_readability": 1, "near_duplicate": 1}
    ]
    assert section(sections, "Duplicates by source").table == [{"removed from": "books", "duplicates": 2, "news": 2}]


def test_sources_of_dropped_documents_are_unknown_when_their_origin_is_gone(store: Store) -> None:
    manifest = seal_curated(store).model_copy(update={"inputs": {}})
    assert section(inspect(store, manifest), "Dropped by source and reason").table[0]["source"] == "unknown"


def test_pass_rates_are_shown_with_prompt_response_and_verdict(store: Store) -> None:
    plan = plan_of(store)
    prompts = [{"id": f"p-{at}", "domain": "math", "prompt": f"question {at}"} for at in range(20)]
    seal_stage(store, plan, "problems", Outcome(summary="p"), {"prompts.parquet": as_table(prompts)})
    rates = [{"prompt_id": f"p-{at}", "rate": at / 20} for at in range(20)]
    samples = [
        {"prompt_id": f"p-{at}", "text": f"r {at}", "verdict": "wrong", "reason": "no answer"} for at in range(20)
    ]
    files = {"pass_rates.parquet": as_table(rates), "rollouts.parquet": as_table(samples)}
    sections = inspect(store, seal_stage(store, plan, "pass_rates_stem", Outcome(summary="r"), files), 1)
    assert section(sections, "Outcomes by reason").table == [
        {"verdict": "wrong", "reason": "no answer", "responses": 20}
    ]
    row = section(sections, "Examples of decile 10 of 10 by pass rate").table[0]
    assert (row["prompt"], row["response"], row["verdict"]) == ("question 18", "r 18", "wrong")


def test_chat_samples_are_shown_turn_by_turn(store: Store) -> None:
    messages = '[{"role": "user", "content": "hello"}, {"role": "assistant", "reasoning": "why", "content": "hi"}]'
    rows = [{"id": "s", "domain": "math", "messages": messages, "source": "gym"}]
    files = {"samples.parquet": as_table(rows), "validation.parquet": as_table(rows)}
    sections = inspect(store, seal_stage(store, plan_of(store), "sft_data", Outcome(summary="s"), files))
    assert section(sections, "Examples of domain math").table == [
        {"source": "gym", "user": "hello", "assistant": "why\n\nhi"}
    ]


def test_a_mixture_lists_the_tokens_of_each_set(store: Store) -> None:
    sizes = {"hq-code": (900, 3), "mq-code": (300, 0)}
    content = {
        "sets": [{"name": name, "tokens": tokens, "documents": count} for name, (tokens, count) in sizes.items()]
    }
    files = {"mixture.json": as_json(content), "sidecar.parquet": as_table([{"tokens": 100}, {"tokens": 800}])}
    sections = inspect(store, seal_stage(store, plan_of(store), "mixture", Outcome(summary="m"), files))
    assert section(sections, "Tokens of each set").table == [
        {"set": "hq-code", "documents": 3, "tokens": 900, "share": "█" * 15 + " 75.0%"},
        {"set": "mq-code", "documents": 0, "tokens": 300, "share": "█" * 5 + " 25.0%"},
    ]


def test_a_checkpoint_has_nothing_to_inspect(store: Store) -> None:
    assert inspect(store, seal_stage(store, plan_of(store), "dpd", Outcome(summary="c"), {})) == []


def test_the_page_of_an_inspection_escapes_documents(store: Store) -> None:
    manifest = seal_tagged(store)
    page = Page(html_report("quality_tagging", manifest.outcome, STAGES["quality_tagging"], inspect(store, manifest)))
    assert "script" not in page.tags
    assert page.outside() == []
    assert page.words.count("<script>alert(1)</script>") == 100


def test_a_damaged_table_is_named_with_its_remedy(store: Store) -> None:
    manifest = seal_tagged(store)
    (store.local_path(manifest) / "documents/00000.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(ArtifactError, match=r"documents/00000\.parquet .*cannot be read.*--only quality_tagging"):
        inspect(store, manifest)


def test_rows_without_a_score_belong_to_no_decile() -> None:
    deciles = decile_rows(np.array([math.nan, *range(20)]), 3)
    assert 0 not in {row for part in deciles for row in part}
    assert [len(part) for part in deciles] == [2] * 10
