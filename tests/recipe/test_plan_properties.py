"""Plans of recipes of any shape, against stores that hold any part of them."""

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan
from tests.artifacts.making import seal_stage

SOURCE = {"type": "path", "path": "x.jsonl", "category": "web", "language": "en"}


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the stages of a recipe: corpora, their labels and curation in any connection, and a chain of phases."""
    corpora, tags, phases = (draw(st.integers(1, 3)) for _ in range(3))
    stages: dict[str, Any] = {
        f"s{n}": {"uses": "ingest", "config": {"sources": [SOURCE], "seed": n}} for n in range(corpora)
    }
    for n in range(tags):
        stages[f"t{n}"] = {"uses": "quality_tagging", "in": {"corpus": f"s{draw(st.integers(0, corpora - 1))}"}}
    stages["problems"] = {}
    tagged = f"t{draw(st.integers(0, tags - 1))}"
    stages["curated"] = {"uses": "retrieval_dedup", "in": {"tagged": tagged, "problems": "problems"}}
    stages["tokenizer"] = {"in": {"corpus": "curated", "problems": "problems"}}
    stages["mixture"] = {"in": {"corpus": "curated", "problems": "problems", "tokenizer": "tokenizer"}}
    before: dict[str, str] = {}
    for n in range(phases):
        uses = "fgwsd_diverse_stable" if before else "fgwsd_warmup"
        config = {"phase": uses.removeprefix("fgwsd_")}
        stages[f"c{n}"] = {"uses": uses, "in": {"mixture": "mixture", **before}, "config": config}
        before = {"checkpoint": f"c{n}"}
    return stages


def load(folder: Path, stages: dict[str, Any]) -> Recipe:
    path = folder / "pipelines.yaml"
    path.write_text(json.dumps({"recipe": "x", "stages": stages, "profiles": {"laptop": {"title": "x"}}}))
    return load_recipe(path, profile="laptop")


@settings(max_examples=50, deadline=None)
@given(graphs(), st.data())
def test_a_stage_runs_if_and_only_if_it_is_chosen_and_not_there(stages: dict[str, Any], data: st.DataObject) -> None:
    names = st.sampled_from(sorted(stages))
    there, until, force = data.draw(st.sets(names, min_size=1)), data.draw(st.none() | names), data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as name:
        recipe = load(Path(name), stages)
        store = Store(Path(name) / "store", Path(name) / "cache")
        for stage in sorted(there):
            seal_stage(store, make_plan(recipe, store).stages[stage])
        files = sorted(Path(store.root).rglob("*"))
        plan = make_plan(recipe, store, Selection(until=until, force=force))
        chosen = recipe.ancestors(until) | {until} if until else set(stages)
        again = ({until} if until else chosen) if force else set[str | None]()
        for stage, planned in plan.stages.items():
            expected = "SKIP" if stage not in chosen else "HIT" if stage in there - again else "RUN"
            assert planned.action == expected, stage
            assert (planned.reference is not None) == (stage in there)
        assert make_plan(recipe, store, Selection(until=until, force=force)) == plan
        assert sorted(Path(store.root).rglob("*")) == files


@settings(max_examples=25, deadline=None)
@given(graphs(), st.data())
def test_a_change_moves_the_fingerprints_of_what_depends_on_it_alone(
    stages: dict[str, Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "store", Path(name) / "cache")
        recipe = load(Path(name), stages)
        before = {stage: planned.fingerprint for stage, planned in make_plan(recipe, store).stages.items()}
        changed = data.draw(st.sampled_from(sorted(stage for stage in stages if stage.startswith("s"))))
        stages[changed]["config"]["seed"] += 1000
        reordered = dict(data.draw(st.permutations(list(stages.items()))))
        after = {stage: one.fingerprint for stage, one in make_plan(load(Path(name), reordered), store).stages.items()}
    moved = {stage for stage, fingerprint in before.items() if after[stage] != fingerprint}
    assert moved == {changed} | recipe.descendants(changed)
