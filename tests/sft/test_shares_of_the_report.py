"""What the shipped recipe says about supervised fine-tuning, and what the data stages make of it."""

from pathlib import Path

import pytest

from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.sft.dataset import mix_by_share

RECIPE_FILE = Path(__file__).parents[2] / "pipelines.yaml"


def test_the_large_profile_has_the_windows_and_shares_of_the_report() -> None:
    stages = load_recipe(RECIPE_FILE, profile="nanbeige4-3b").stages
    assert stages["sft_data"].config.shares() == {"math": 0.5, "science": 0.3, "code": 0.2}
    assert stages["cold_start_sft"].config.sequence_length == 32 * 1024
    assert stages["cold_start_sft"].inputs["data"] == "sft_data"
    assert stages["refinement"].config.mixture.shares() == {"math": 0.4, "general": 0.3, "agent": 0.2, "code": 0.1}
    assert stages["refinement"].config.checklist == "generated"
    assert stages["refinement"].config.judges == ("teacher", "student")
    assert stages["refinement"].config.reviser == "conditioned"
    assert stages["refinement"].config.chain_prompt == "prompt_and_solution"
    assert stages["overall_sft"].config.sequence_length == 64 * 1024
    assert stages["overall_sft"].inputs["data"] == "refinement"


def test_the_cold_start_mix_has_exactly_its_shares_however_much_each_domain_has() -> None:
    pools = {name: [{"domain": name}] * count for name, count in (("math", 900), ("science", 33), ("code", 700))}
    mixed = mix_by_share(pools, {"math": 0.5, "science": 0.3, "code": 0.2}, 1000)
    counts = {name: sum(row["domain"] == name for row in mixed) for name in pools}
    assert counts == {"math": 55, "science": 33, "code": 22}


@pytest.mark.parametrize("wanted", [10, 100])
def test_a_rich_pool_gives_as_many_samples_as_wanted(wanted: int) -> None:
    pools = {name: [{}] * 1000 for name in ("math", "science", "code")}
    assert len(mix_by_share(pools, {"math": 0.5, "science": 0.3, "code": 0.2}, wanted)) == wanted
