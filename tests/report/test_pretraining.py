from pathlib import Path

import pytest

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.report.pretraining import draw_recipe, plan_phases
from tests.conftest import RECIPE_FILE


def test_the_recipe_alone_gives_the_published_schedule_and_shares() -> None:
    phases = {curve.phase: curve for curve in plan_phases(load_recipe(RECIPE_FILE, profile="nanbeige4-3b"))}
    assert phases["decay"].end == 23_000_000_000_000
    assert phases["diverse_stable"].rate[0] == (100_000_000_000, pytest.approx(4.5e-4))
    assert phases["decay"].rate[-1] == (23_000_000_000_000, pytest.approx(1.5e-6))
    diverse = phases["diverse_stable"].weights
    assert diverse["medium quality"] == pytest.approx(0.48)
    assert diverse["high quality, synthetic"] == pytest.approx(0.15)
    assert "medium quality" not in phases["hq_stable"].weights
    assert all(sum(curve.weights.values()) == pytest.approx(1) for curve in phases.values())


def test_vanilla_wsd_spreads_one_blend_over_all_phases() -> None:
    recipe = load_recipe(RECIPE_FILE, profile="nanbeige4-3b", overrides=["shared.schedule.blend=even"])
    weights = [curve.weights for curve in plan_phases(recipe)]
    assert weights[0] == weights[-1]
    # medium quality: 48 % of warmup and the diversity-enriched phase, nothing after
    assert weights[0]["medium quality"] == pytest.approx(0.48 * 12.5 / 23)


def test_the_picture_has_both_panels(tmp_path: Path) -> None:
    figure = draw_recipe(load_recipe(RECIPE_FILE, profile="laptop"))
    labels = {axes.get_ylabel() for axes in figure.axes}
    assert {"learning rate", "share of the phase"} <= labels


def test_a_recipe_without_pretraining_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text("recipe: none\nstages: {problems: {}}\nprofiles: {laptop: {title: small}}\n")
    with pytest.raises(RecipeError, match="no stage with an FG-WSD config"):
        draw_recipe(load_recipe(file, profile="laptop"))
