from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan
from nanbeige_core.report.plan_report import plan_markdown, plan_sentence
from tests.artifacts.making import seal_stage
from tests.conftest import RECIPE_FILE


def test_the_graph_has_each_stage_once_coloured_by_what_happens_to_it(store: Store) -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    seal_stage(store, make_plan(recipe, store).stages["ingest"])
    plan = make_plan(recipe, store, Selection(until="quality_tagging"))
    text = plan_markdown(plan)
    assert 'ingest["ingest<br/>HIT"]' in text
    assert "style ingest fill:#d5f0d5" in text
    assert "style quality_tagging fill:#ffe3b8" in text
    assert text.count("<br/>") == len(plan.stages)
    assert plan_sentence(plan) == f"1 to run, 1 reused from the store, {len(plan.stages) - 2} not selected"


def test_the_graph_connects_what_the_recipe_connects_and_draws_no_implied_arrow(store: Store) -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    drawn = {name: set() for name in recipe.stages}
    for line in plan_markdown(make_plan(recipe, store)).splitlines():
        if " --> " in line:
            upstream, name = line.split(" --> ")
            drawn[name].add(upstream.strip())
    reached = {name: set() for name in recipe.stages}
    for name, upstream in drawn.items():
        reached[name] = upstream.union(*(reached[other] for other in upstream))
    assert {name: recipe.ancestors(name) for name in recipe.stages} == reached
    for upstream in drawn.values():
        assert not any(one in reached[other] for one in upstream for other in upstream)
