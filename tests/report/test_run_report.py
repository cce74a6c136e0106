import re
from pathlib import Path

import pytest

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome
from nanbeige_core.recipe.plan import Plan
from nanbeige_core.report.run_report import RunFacts, run_page, summary_markdown, write_run_report
from tests.report.building import HOSTILE, PROBLEM, Page, as_json, partial_run, plan_of, seal_stage


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("partial")
    store = Store(root / "store", root / "cache")
    plan, manifests = partial_run(store)
    facts = RunFacts(["dpd"], 65.0, {"rl_coding": f"stage rl_coding failed: {HOSTILE}"}, ["evaluate", "export"])
    return run_page(plan, manifests, store, facts, links="../..")


def test_the_final_table_names_every_stage_with_its_gain(store: Store) -> None:
    lines = summary_markdown(*partial_run(store), executed=["dpd"]).replace("\\", "").splitlines()
    assert lines[0] == "**7 reused, 1 ran**"
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    assert "| reused | validation loss (lower is better) | 9 -&gt; 7 | -2.1 to -1.9 |" in rows["fgwsd_warmup"]
    assert "| ran | heldout_exact_match | 0.3 -&gt; 0.3 | -0.02 to +0.02 |" in rows["dpd"]


def test_hostile_text_is_words_and_nothing_else(partial: str) -> None:
    page = Page(partial)
    assert {"script", "img", "iframe", "link", "object", "form"}.isdisjoint(page.tags)
    assert page.words.count("<script>alert(1)</script>") >= 4, "the texts themselves must be readable"


def test_the_page_can_load_nothing(partial: str) -> None:
    page = Page(partial)
    assert page.outside() == []
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "script-src" not in policy, "scripts fall under default-src: none"


def test_every_chapter_of_what_is_there_is_drawn(partial: str) -> None:
    page = Page(partial)
    chapters = {
        "stages",
        "effects",
        "matrix",
        "pretraining",
        "sft",
        "dpd",
        "filters",
        "rl",
        "answers",
        "samples",
        "time",
    }
    assert chapters <= page.ids
    # phase picture, SFT loss and domains, DPD terms and margins, filter, reward, lost samples
    assert page.tags.count("svg") == 8


def test_the_histogram_counts_as_the_filter_decides(partial: str) -> None:
    assert "kept: 7" in Page(partial).words, "nine rates from 0/8 to 8/8: 0 and 1 lie outside 0.1 to 0.9"
    assert "dropped: 2" in Page(partial).words


def test_axes_carry_their_units(partial: str) -> None:
    for label in (
        "tokens trained on",
        "loss, nats/token",
        "measured pass rate",
        "mean reward, 0 to 1",
        "nats per pair",
    ):
        assert label in Page(partial).words


def test_what_is_not_there_is_named(partial: str) -> None:
    words = " ".join(Page(partial).words.split())
    assert re.search(r"export not started", words)
    assert re.search(r"rl_coding failed", words)
    assert re.search(r"ingest not made", words)
    assert "Phases: 1 warmup" in words
    assert "What has not run yet is drawn from the recipe" in words


def test_colours_say_no_more_than_the_interval(partial: str) -> None:
    assert re.search(r'class="t good">heldout exact match: 0\.1 ', partial)
    assert re.search(r'class="t bad">held-out pass rate', partial)
    assert re.search(r'class="t ">heldout exact match: 0\.3 ', partial), "an interval across zero has no colour"


def test_samples_show_the_prompt_not_its_id(partial: str) -> None:
    assert Page(partial).words.count(PROBLEM) == 2


def test_an_empty_store_still_gives_a_page(store: Store) -> None:
    words = Page(run_page(plan_of(store), {}, store, RunFacts())).words
    assert "0 of 29" in words


def test_a_file_of_another_form_costs_its_own_part_only(store: Store) -> None:
    plan = plan_of(store)
    broken = seal_stage(store, plan, "evaluate", Outcome(summary="odd"), {"report.json": as_json({"results": [1]})})
    page = Page(run_page(plan, {"evaluate": broken}, store, RunFacts()))
    assert "matrix" not in page.ids
    assert "stages" in page.ids
    assert f"could not be read:{broken.reference.address}: TypeError" in page.words


def test_the_page_of_a_run_stays_small(partial: str) -> None:
    assert len(partial.encode()) < 1_000_000


def few(store: Store) -> tuple[Plan, dict[str, Manifest]]:
    """Two stages that need few pictures."""
    plan = plan_of(store)
    names = ("problems", "export")
    return plan, {name: seal_stage(store, plan, name, Outcome(summary=name), {}) for name in names}


def test_a_run_of_nothing_keeps_the_page_it_has(store: Store) -> None:
    plan, manifests = few(store)
    write_run_report(plan, manifests, store, RunFacts(["export"], 5.0), run_id="first")
    latest = Path(store.root) / "runs/latest/index.html"
    before = latest.read_text()
    assert write_run_report(plan, manifests, store, RunFacts([], 1.0), run_id="second").endswith("latest/index.html")
    assert latest.read_text() == before
    assert not (latest.parent.parent / "second").exists()


def test_a_changed_artifact_makes_a_new_page(store: Store) -> None:
    plan, manifests = few(store)
    write_run_report(plan, manifests, store, RunFacts(), run_id="first")
    manifests["export"] = manifests["export"].model_copy(update={"digest": "f" * 64})
    write_run_report(plan, manifests, store, RunFacts(), run_id="second")
    assert (Path(store.root) / "runs/second/index.html").exists()


def test_links_lead_to_the_pages_of_stages(store: Store) -> None:
    plan, manifests = few(store)
    write_run_report(plan, manifests, store, RunFacts(["export"]), run_id="one")
    text = (Path(store.root) / "runs/one/index.html").read_text()
    link = re.search(r'href="(\.\./\.\./export/[^"]+)"', text)
    assert link is not None
    made = store.local_path(manifests["export"])
    assert (Path(store.root) / "runs/one" / link[1]).parent.resolve() == made.resolve()


def test_stages_of_this_run_stand_out_from_reused_ones(partial: str) -> None:
    bars = re.findall(r'<div>(\w+)</div><div class="track"><i( class="old")?', partial)
    assert [stage for stage, old in bars if not old] == ["dpd"]
    assert len(bars) == 8
