import time
from dataclasses import replace
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.consistency import tokenizer_of
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan
from tests.artifacts.making import seal_stage
from tests.conftest import RECIPE_FILE


def laptop(*overrides: str) -> Recipe:
    return load_recipe(RECIPE_FILE, profile="laptop", overrides=list(overrides))


def fill(store: Store, recipe: Recipe, *names: str) -> None:
    """Seal an artifact of the right layout for each named stage, at its planned fingerprint."""
    for name in names:
        planned = make_plan(recipe, store).stages[name]
        seal_stage(store, planned)


def test_an_empty_store_runs_everything(store: Store) -> None:
    plan = make_plan(laptop(), store)
    assert {planned.action for planned in plan.stages.values()} == {"RUN"}
    assert plan.stages["dpd"].causes == ("never run",)


def test_an_artifact_in_the_store_is_a_hit(store: Store) -> None:
    recipe = laptop()
    fill(store, recipe, "ingest", "problems")
    hits = {planned.name for planned in make_plan(recipe, store).selected if planned.action == "HIT"}
    assert hits == {"ingest", "problems"}


def test_a_changed_value_reruns_exactly_what_depends_on_it(store: Store) -> None:
    plain, changed = make_plan(laptop(), store), make_plan(laptop("dpd.beta=0.2"), store)
    moved = {n for n in plain.stages if plain.stages[n].fingerprint != changed.stages[n].fingerprint}
    assert moved == {"dpd"} | laptop().descendants("dpd")


def test_one_value_changed_from_the_terminal_reruns_its_stage_and_what_depends_on_it_only(store: Store) -> None:
    for planned in make_plan(laptop(), store).stages.values():
        seal_stage(store, planned)
    assert make_plan(laptop(), store).to_run == []
    again = make_plan(laptop("dpd.beta=0.2"), store)
    assert {planned.name for planned in again.to_run} == {"dpd"} | laptop().descendants("dpd")
    assert again.stages["dpd"].causes == ("beta: 0.1 -> 0.2",)


def test_runtime_values_never_change_a_fingerprint(store: Store) -> None:
    plain = make_plan(laptop(), store)
    changed = make_plan(laptop("dpd.runtime.processes=1", "dpd.runtime.micro_batch_size=3"), store)
    assert {n: p.fingerprint for n, p in plain.stages.items()} == {n: p.fingerprint for n, p in changed.stages.items()}


def test_the_cause_names_the_changed_field_with_both_values(store: Store) -> None:
    fill(store, laptop(), "ingest")
    plan = make_plan(laptop("ingest.seed=99"), store)
    assert any("seed" in cause and "99" in cause for cause in plan.stages["ingest"].causes)


def test_the_cause_names_the_changed_input(store: Store) -> None:
    fill(store, laptop(), "ingest", "quality_tagging")
    plan = make_plan(laptop("ingest.seed=99"), store)
    assert plan.stages["quality_tagging"].causes == ("input corpus changed (ingest)",)


def test_half_done_work_is_a_resume(store: Store) -> None:
    planned = make_plan(laptop(), store).stages["ingest"]
    work = store.work_directory("ingest", planned.fingerprint)
    work.mkdir(parents=True)
    (work / "chunk-0.parquet").write_bytes(b"half")
    assert make_plan(laptop(), store).stages["ingest"].action == "RESUME"


def test_a_damaged_artifact_runs_again_and_says_why(store: Store) -> None:
    recipe = laptop()
    fill(store, recipe, "ingest")
    planned = make_plan(recipe, store).stages["ingest"]
    next(Path(store.root, planned.address, "documents").glob("*.parquet")).write_bytes(b"shorter")
    again = make_plan(recipe, store).stages["ingest"]
    assert again.action == "RUN"
    assert "bytes" in again.causes[0]


def test_only_needs_its_inputs_and_says_how_to_get_them(store: Store) -> None:
    with pytest.raises(RecipeError, match=r"quality_tagging needs the artifact of ingest.*nanbeige run --until ingest"):
        make_plan(laptop(), store, Selection(only="quality_tagging"))


def test_only_runs_one_stage(store: Store) -> None:
    recipe = laptop()
    fill(store, recipe, "ingest")
    plan = make_plan(recipe, store, Selection(only="quality_tagging"))
    assert [planned.name for planned in plan.to_run] == ["quality_tagging"]


def test_until_runs_the_stage_and_its_ancestors(store: Store) -> None:
    plan = make_plan(laptop(), store, Selection(until="retrieval_dedup"))
    assert {planned.name for planned in plan.to_run} == {"ingest", "problems", "quality_tagging", "retrieval_dedup"}


def test_force_runs_a_stage_that_is_there(store: Store) -> None:
    recipe = laptop()
    fill(store, recipe, "ingest")
    plan = make_plan(recipe, store, Selection(only="ingest", force=True))
    assert [(p.name, p.causes) for p in plan.to_run] == [("ingest", ("forced",))]
    changed = make_plan(laptop("ingest.seed=7"), store, Selection(only="ingest", force=True))
    assert changed.to_run[0].causes == ("seed: 11 -> 7",), "what is not there is made for its own reason"


def test_an_unknown_stage_in_the_selection_names_the_nearest_one(store: Store) -> None:
    with pytest.raises(RecipeError, match="did you mean 'ingest'"):
        make_plan(laptop(), store, Selection(only="ingst"))


def test_two_selections_at_once_are_refused(store: Store) -> None:
    with pytest.raises(RecipeError, match="one of from, only and until"):
        make_plan(laptop(), store, Selection(only="dpd", until="dpd"))


def test_planning_changes_nothing(store: Store, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    make_plan(laptop(), store)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_takes_under_a_second_of_processor_time(store: Store) -> None:
    recipe = laptop()
    start = time.process_time()
    make_plan(recipe, store)
    assert time.process_time() - start < 1


def test_a_chain_of_stages_may_be_longer_than_pythons_stack() -> None:
    recipe = laptop()
    trained = replace(recipe.stages["cold_start_sft"], inputs={"tokenizer": "tokenizer"})
    chain = {"c0": trained}
    chain |= {f"c{n}": replace(trained, name=f"c{n}", inputs={"checkpoint": f"c{n - 1}"}) for n in range(1, 5000)}
    long = replace(recipe, stages={**recipe.stages, **chain})
    assert tokenizer_of(long.stages, "c4999") == "tokenizer"
    assert long.ancestors("c4999") >= {"c0", "c4998", "tokenizer"}
    assert set(chain) <= long.needed()
