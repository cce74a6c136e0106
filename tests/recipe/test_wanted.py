import json
from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import make_plan
from nanbeige_core.recipe.wanted import recipe_fingerprints, wanted_addresses
from tests.conftest import RECIPE_FILE


def recipe_file(tmp_path: Path, arm: str = "a.seed=9") -> Path:
    tree = {
        "recipe": "two sizes",
        "shared": {"seed": 1},
        "stages": {
            "a": {"uses": "ingest", "config": {"seed": 5}},
            "b": {"uses": "quality_tagging", "in": {"corpus": "a"}},
        },
        "profiles": {"small": {"title": "s"}, "large": {"title": "l", "stages": {"a": {"config": {"seed": 6}}}}},
        "sweeps": {
            "s": {
                "title": "t",
                "profile": "small",
                "metric": "b.outscores_damaged_copy",
                "arms": [{"name": "m"}, {"name": "n", "set": [arm]}],
                "seeds": [7],
                "seed_fields": ["b.seed"],
            }
        },
    }
    path = tmp_path / "pipelines.yaml"
    path.write_text(json.dumps(tree))
    return path


def test_fingerprints_without_a_store_are_those_of_the_plan(store: Store) -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    planned = {name: stage.fingerprint for name, stage in make_plan(recipe, store).stages.items()}
    assert recipe_fingerprints(recipe) == planned


def test_every_profile_and_sweep_point_is_wanted(tmp_path: Path) -> None:
    reasons = list(wanted_addresses(recipe_file(tmp_path)).values())
    assert reasons.count("profile large plans it") == reasons.count("profile small plans it") == 2
    assert reasons.count("sweep s plans it (arm m, seed 7)") == 1  # its ingest is the profile's
    assert reasons.count("sweep s plans it (arm n, seed 7)") == 2
    assert len(wanted_addresses(recipe_file(tmp_path), sweeps=False)) == 4


def test_a_sweep_that_cannot_be_planned_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        wanted_addresses(recipe_file(tmp_path, arm="a.sed=9"))
