from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import RecipeSource
from nanbeige_core.recipe.tree import overlay, parse_tree, read_text, resolved
from tests.conftest import RECIPE_FILE

SHARED = {"seed": 1, "sampling": {"top_p": 0.9, "tokens": 64}, "both": {"sampling": "${shared.sampling}"}}


@pytest.mark.parametrize("profile", ["laptop", "ablation-1b", "nanbeige4-3b"])
def test_the_shipped_recipe_merges_and_resolves_as_omegaconf_does(profile: str) -> None:
    tree = OmegaConf.create(parse_tree(read_text(RECIPE_FILE), RECIPE_FILE))
    sections = ("shared", "runtime", "stages")
    layers = [
        OmegaConf.create({name: source.get(name) or {} for name in sections})
        for source in (tree, tree.profiles[profile])
    ]
    expected = OmegaConf.to_container(OmegaConf.merge(*layers), resolve=True)
    source = RecipeSource(RECIPE_FILE)
    assert resolved(source._merge(profile), RECIPE_FILE) == expected  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(
    "value", ["${shared.sampling}", "${shared.both}", "${..other.x}", "n-${shared.seed}", "${stages.other.x}"]
)
def test_every_kind_of_interpolation_resolves_as_omegaconf_does(value: str) -> None:
    tree = {"shared": SHARED, "stages": {"one": {"value": value}, "other": {"x": [1, "${shared.seed}"]}}}
    assert resolved(tree, Path("p")) == OmegaConf.to_container(OmegaConf.create(tree), resolve=True)


def test_a_part_of_what_is_referred_to_changes_in_one_place_only() -> None:
    root = {"shared": SHARED}
    assert overlay({"a": "${shared.sampling}"}, {"a": {"tokens": 8}}, root) == {"a": {"top_p": 0.9, "tokens": 8}}
    assert SHARED["sampling"] == {"top_p": 0.9, "tokens": 64}


def test_a_reference_that_leads_nowhere_names_itself() -> None:
    with pytest.raises(RecipeError, match=r"cannot be resolved: .*shared\.sed"):
        resolved({"shared": SHARED, "stages": {"one": "${shared.sed}"}}, Path("p"))
