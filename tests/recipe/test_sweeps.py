from pathlib import Path

import pytest
import yaml

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import RecipeSource, load_recipe
from nanbeige_core.recipe.measures import RECORDS
from nanbeige_core.recipe.sweep_plan import plan_sweep
from tests.artifacts.making import draft, fill_layout
from tests.conftest import RECIPE_FILE

PROFILES = ("laptop", "ablation-1b", "nanbeige4-3b")
SWEEPS = list(RecipeSource(RECIPE_FILE).file.sweeps)
GOOD = {
    "title": "a sweep",
    "metric": "quality_tagging.outscores_damaged_copy",
    "arms": [{"name": "graded"}, {"name": "binary", "set": ["quality_tagging.label_scale=binary"]}],
    "seeds": [1, 2],
    "seed_fields": ["quality_tagging.seed"],
}


def written(tmp_path: Path, **changes: object) -> Path:
    tree = {
        "recipe": "small",
        "stages": {"ingest": {}, "quality_tagging": {"in": {"corpus": "ingest"}}},
        "profiles": {name: {"title": name} for name in PROFILES},
        "sweeps": {"scale": {**GOOD, **changes}},
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def arm(change: str) -> list[dict[str, object]]:
    return [{"name": "graded"}, {"name": "other", "set": [change]}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": arm("quality_tagging.label_scal=binary")}, "did you mean 'label_scale'"),
        ({"arms": arm("quality_tagging.label_scale=ternary")}, "ternary"),
        ({"arms": arm("quality_taging.seed=1")}, "did you mean 'quality_tagging'"),
        ({"arms": arm("shared.sed=1")}, "shared values have no 'sed'"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "arm a is given twice"),
        ({"arms": [{"name": "a"}]}, "at least 2"),
        ({"baseline": "grade"}, "did you mean 'graded'"),
        ({"seeds": [1, 1]}, "given twice"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"seed_fields": ["quality_tagging.sed"]}, "did you mean 'seed'"),
        ({"metric": "quality_taging.outscores_damaged_copy"}, "did you mean 'quality_tagging'"),
        ({"metric": "quality_tagging.outscores"}, "did you mean 'outscores_damaged_copy'"),
        ({"metric": "ingest.documents"}, "keeps no per-problem records"),
        ({"metric": "quality_tagging"}, "metric"),
        ({"profile": "lapto"}, "did you mean 'laptop'"),
        ({"until": "ingest"}, "until is not a known key"),
    ],
)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_wrong_sweep_is_refused_when_the_recipe_is_loaded(
    tmp_path: Path, profile: str, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        load_recipe(written(tmp_path, **changes), profile=profile)
    assert "sweeps" in str(caught.value)


def test_an_unknown_sweep_names_the_nearest_one(tmp_path: Path, store: Store) -> None:
    with pytest.raises(RecipeError, match="did you mean 'scale'"):
        plan_sweep(written(tmp_path), "scal", store)


def test_arms_share_what_they_do_not_change(tmp_path: Path, store: Store) -> None:
    plan = plan_sweep(written(tmp_path), "scale", store)
    names = [shared.planned.name for shared in plan.stages.values()]
    assert (names.count("ingest"), names.count("quality_tagging")) == (1, 4)


def test_an_override_of_the_whole_sweep_reaches_every_arm_and_an_arm_wins(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path)
    changes = ["quality_tagging.ridge=2.5", "quality_tagging.label_scale=0-9"]
    runs = plan_sweep(path, "scale", store, changes).runs
    found = {run.arm: run.plan.recipe.stage("quality_tagging").config.model_dump() for run in runs}
    assert {arm: config["ridge"] for arm, config in found.items()} == {"graded": 2.5, "binary": 2.5}
    assert {arm: config["label_scale"] for arm, config in found.items()} == {"graded": "0-9", "binary": "binary"}


def test_an_artifact_without_records_is_made_again_and_one_with_them_is_not(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path)
    planned = plan_sweep(path, "scale", store).runs[0].plan.stages["quality_tagging"]
    for expected in ("RUN", "HIT"):
        work = store.work_directory(planned.name, planned.fingerprint)
        fill_layout(work, planned.stage.spec.produces)
        if expected == "HIT":
            (work / RECORDS).write_bytes(b"records")
        store.seal(work, draft(planned.name, planned.fingerprint, planned.stage.spec.produces, planned.identity))
        found = plan_sweep(path, "scale", store).runs[0].plan.stages["quality_tagging"]
        assert found.action == expected
        assert found.forced == (expected == "RUN")


@pytest.mark.parametrize("name", SWEEPS)
def test_every_shipped_sweep_plans_and_shares_its_ancestors(name: str, store: Store) -> None:
    plan = plan_sweep(RECIPE_FILE, name, store)
    assert len(plan.entry.seeds) >= 4
    assert [stage.planned.name for stage in plan.stages.values()].count("ingest") == 1
    assert len(plan.stages) < sum(len(run.plan.selected) for run in plan.runs)
    assert len({run.plan.stages[plan.entry.stage].fingerprint for run in plan.runs}) == len(plan.runs)


def test_the_a_a_sweep_trains_nothing_that_the_schedule_sweep_does_not_name_but_its_own_seeds(store: Store) -> None:
    plan = plan_sweep(RECIPE_FILE, "a-a", store)
    plain = [run.plan.recipe.stage("fgwsd_decay").config.model_dump() for run in plan.runs]
    assert len({value.pop("seed") for value in plain}) == len(plan.runs)
    assert all(value == plain[0] for value in plain)
