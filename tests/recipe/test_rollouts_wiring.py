"""Roll out only, then train only: what the recipe alone can say about the pair, said before anything runs."""

from pathlib import Path

import pytest

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import make_plan
from nanbeige_core.recipe.price.estimate import expected_costs
from nanbeige_core.recipe.price.rates import load_rates
from nanbeige_core.recipe.price.work import Sampling
from tests.conftest import RECIPE_FILE

SAMPLED = "  rl_stem:\n    in: {checkpoint: dpd, prompts: filter_stem, tokenizer: tokenizer, problems: problems}"
STORED = """  rollouts_stem:
    uses: rollouts
    in: {checkpoint: dpd, prompts: filter_stem, tokenizer: tokenizer}
    config: {domain: stem, steps: 45, prompts_per_step: 24, group_size: 8, sampling: {max_new_tokens: 48}}
  rl_stem:
    in: {checkpoint: dpd, prompts: filter_stem, tokenizer: tokenizer, problems: problems, rollouts: rollouts_stem}"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    text = RECIPE_FILE.read_text()
    assert text.count(SAMPLED) == 1
    (tmp_path / "pipelines.yaml").write_text(text.replace(SAMPLED, STORED))
    return tmp_path / "pipelines.yaml"


def load(recipe_file: Path, *overrides: str) -> Recipe:
    return load_recipe(recipe_file, profile="laptop", overrides=list(overrides))


def test_a_stage_may_train_on_the_rollouts_of_another(recipe_file: Path, store: Store) -> None:
    plan = make_plan(load(recipe_file), store)
    assert plan.stages["rollouts_stem"].action == "RUN"
    assert "rollouts_stem" in load(recipe_file).ancestors("rl_stem")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollouts_stem.steps=44", r"rl_stem.steps is 45, but its rollouts \(rollouts_stem\) hold 44"),
        ("rollouts_stem.domain=coding", "has domain stem, but its rollouts"),
        ("rollouts_stem.sampling.temperature=0.7", "has sampling.temperature 1.0, but its rollouts"),
        ("rl_stem.loss.importance_cap=null", "trains on stored rollouts, but loss.importance_cap is none"),
        ("rl_stem.runtime.engine=openai", "keeps its own weights"),
        ("rl_stem.runtime.engine=vllm_server", "runtime.policy_url is empty"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(recipe_file: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(recipe_file, override)


def test_stored_rollouts_are_priced_once_and_measurements_on_the_way_too(recipe_file: Path) -> None:
    def sampled(recipe: Recipe) -> dict[str, float]:
        work = expected_costs(recipe, load_rates())["rl_stem"].work
        return {item.name: item.responses.expected for item in work if isinstance(item, Sampling)}

    plain = sampled(load_recipe(RECIPE_FILE, profile="laptop"))
    assert set(plain) - set(sampled(load(recipe_file))) == {"roll out"}
    watched = sampled(load(recipe_file, "rl_stem.monitor={every: 5, patience: 0}"))
    assert watched["sample held-out problems"] == plain["sample held-out problems"] * (2 + 9) / 2
