"""The price against what a complete laptop run counted, and what it must say about the large profiles."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.price import problem_counts
from nanbeige_core.recipe.price.estimate import RecipePrice, price_recipe
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import load_rates
from nanbeige_core.rl.prompts import STAGE_DOMAINS
from nanbeige_core.stages import STAGES
from tests.conftest import RECIPE_FILE, ROOT
from tests.recipe.price.recorded import recorded, recorded_recipe

RUN = recorded()
REPORTS_NO_TOKENS = {"refinement", "preference_pairs", "reward_model", "evaluate"}
"""Stages whose manifest leaves its token count at 0."""
FIXED = {
    "problems": {"rows"},
    "sft_data": {"read", "kept", "validation", "samples_math", "samples_science", "samples_code"},
    "tokenizer": {"vocabulary"},
    "fgwsd_warmup": {"steps"},
    "fgwsd_diverse_stable": {"steps"},
    "fgwsd_hq_stable": {"steps"},
    "fgwsd_decay": {"steps"},
    "teacher": {"pretraining_steps"},
    "refinement": {"instructions"},
    "preference_pairs": {"prompts"},
    "pass_rates_stem": {"problems", "samples"},
    "filter_stem": {"read", "heldout"},
    "rl_stem": {"steps", "rollouts", "heldout_problems"},
    "reward_model": {"prompts", "steps"},
    "evaluate": {"checkpoints", "problems", "responses"},
    "export": {"parameters", "probe_tokens"},
}
"""Counts that the recipe alone fixes."""


@pytest.fixture(scope="module")
def laptop() -> RecipePrice:
    return price_recipe(recorded_recipe(), load_rates())


def price(profile: str, *overrides: str, **options: object) -> RecipePrice:
    recipe = load_recipe(RECIPE_FILE, profile=profile, overrides=list(overrides))
    return price_recipe(recipe, load_rates(), **options)  # type: ignore[arg-type]


def test_every_stage_type_declares_its_cost() -> None:
    unpriced = [uses for uses, spec in STAGES.items() if spec.cost_function() is None]
    assert unpriced == ["sweep_report"]  # a few seconds after a sweep, and no stage of a recipe


@pytest.mark.parametrize("stage", FIXED)
def test_counts_that_the_recipe_fixes_are_exact(laptop: RecipePrice, stage: str) -> None:
    counts = laptop.stages[stage].counts
    assert {name: counts[name] for name in FIXED[stage]} == {
        name: Range.exactly(RUN[stage]["counts"][name]) for name in FIXED[stage]
    }


def test_pretraining_tokens_are_exact(laptop: RecipePrice) -> None:
    trained = [name for name in RUN if name.startswith("fgwsd_")] + ["teacher"]
    assert {name: laptop.stages[name].tokens for name in trained} == {
        name: Range.exactly(RUN[name]["tokens"]) for name in trained
    }


@pytest.mark.parametrize("stage", RUN)
def test_what_the_data_decides_lies_within_the_bounds(laptop: RecipePrice, stage: str) -> None:
    priced, run = laptop.stages[stage], RUN[stage]
    for name, bounds in priced.counts.items():
        assert bounds.holds(run["counts"][name]), (name, bounds, run["counts"][name])
    assert priced.storage_bytes.holds(run["bytes"]), (priced.storage_bytes, run["bytes"])
    assert priced.seconds.holds(run["seconds"]), (priced.seconds, run["seconds"])
    if stage not in REPORTS_NO_TOKENS:
        assert priced.tokens.holds(run["tokens"]), (priced.tokens, run["tokens"])


def test_expected_tokens_are_near_what_was_counted(laptop: RecipePrice) -> None:
    counted = {name: run["tokens"] for name, run in RUN.items() if run["tokens"]}
    expected = {name: laptop.stages[name].tokens.expected for name in counted}
    assert {n: round(expected[n] / counted[n], 2) for n in counted if not 0.6 < expected[n] / counted[n] < 1.6} == {}


def test_a_checkpoint_weighs_what_it_weighed(laptop: RecipePrice) -> None:
    for stage in ("fgwsd_warmup", "fgwsd_decay", "teacher", "cold_start_sft", "dpd"):
        assert laptop.stages[stage].storage_bytes.expected == pytest.approx(RUN[stage]["bytes"], rel=0.03)


def test_the_rl_domains_are_those_that_run() -> None:
    assert dict(problem_counts.STAGE_DOMAINS) == STAGE_DOMAINS


def test_the_report_s_pretraining_is_the_known_figure() -> None:
    stages = price("nanbeige4-3b").stages
    phases = [stages[f"fgwsd_{name}"] for name in ("warmup", "diverse_stable", "hq_stable", "decay")]
    assert sum(phase.tokens.expected for phase in phases) == pytest.approx(23e12, rel=1e-6)
    # 6 N D with 3.93 B weights is 5.4e23; the lookup table costs nothing and attention costs something
    assert sum(phase.flops.expected for phase in phases) == pytest.approx(5.4e23, rel=0.05)
    # at 40 % of an H100 that is about 370 thousand hours
    assert 3e5 < sum(phase.device_hours.expected for phase in phases) < 5e5


def test_a_larger_budget_costs_more() -> None:
    base, more = price("laptop"), price("laptop", "shared.phase_tokens.hq_stable=270336", "rl_stem.group_size=16")
    for stage in ("fgwsd_hq_stable", "rl_stem"):
        for quantity in ("tokens", "flops", "seconds", "money"):
            assert getattr(more.stages[stage], quantity).expected > getattr(base.stages[stage], quantity).expected
    assert more.stages["fgwsd_warmup"] == base.stages["fgwsd_warmup"]


def test_more_devices_shorten_the_time_and_leave_the_hours() -> None:
    few, many = (
        price("nanbeige4-3b", f"fgwsd_hq_stable.runtime.processes={n}").stages["fgwsd_hq_stable"] for n in (8, 512)
    )
    assert many.seconds.expected < few.seconds.expected / 60
    assert many.device_hours.expected == pytest.approx(few.device_hours.expected, rel=0.01)
    assert many.memory_bytes.expected < few.memory_bytes.expected  # the optimizer is spread over more ranks


def test_a_stage_that_does_not_fit_its_device_says_so() -> None:
    plain = [f"fgwsd_decay.runtime.{value}" for value in ("tensor_parallel=1", "sequence_parallel=false")]
    whole = price("nanbeige4-3b", *plain, "fgwsd_decay.runtime.recompute=false")
    short, long = whole.stages["fgwsd_warmup"], whole.stages["fgwsd_decay"]
    assert short.fits
    assert not long.fits
    assert any("tensor_parallel" in note for note in long.notes)
    split = price("nanbeige4-3b", "fgwsd_decay.runtime.recompute=false").stages["fgwsd_decay"]
    assert split.memory_bytes.expected < 0.4 * long.memory_bytes.expected
    again = price("nanbeige4-3b").stages["fgwsd_decay"]
    assert again.memory_bytes.expected < split.memory_bytes.expected
    assert 1.2 < again.flops.expected / split.flops.expected < 1.4  # a third forward pass, output layer left out


def test_the_3b_profile_fits_its_devices_and_its_windows() -> None:
    found = price("nanbeige4-3b")
    assert [name for name, stage in found.stages.items() if not stage.fits] == []
    assert not any("fills the model's window" in note or "engine is transformers" in note for note in found.notes)


def test_a_corpus_too_small_for_its_phases_is_named_and_can_be_priced_larger() -> None:
    small = price("nanbeige4-3b")
    assert any("read the mixture" in note for note in small.notes)
    large = price("nanbeige4-3b", corpus_tokens=12.5e12)
    assert not any("read the mixture" in note for note in large.notes)
    assert large.stages["mixture"].tokens.expected == pytest.approx(0.97 * 0.97 * 12.5e12, rel=0.01)
    assert (
        large.stages["retrieval_dedup"].core_hours.expected > 1e4 * small.stages["retrieval_dedup"].core_hours.expected
    )


def test_an_endpoint_costs_requests_and_tokens_instead_of_operations() -> None:
    served = price("ablation-1b", "preference_pairs.runtime.engine=openai").stages["preference_pairs"]
    prompts = served.counts["prompts"].expected
    assert served.api_calls == Range.exactly(2 * prompts)  # teacher and student, each all samples at once
    assert served.flops.high == 0
    answered = served.tokens.expected / 1e6 * load_rates().million_output_tokens.expected
    assert served.money.expected > answered


def test_bounds_always_surround_the_expected_value() -> None:
    for profile in ("laptop", "ablation-1b", "nanbeige4-3b"):
        for stage in price(profile).stages.values():
            for each in (
                stage.tokens,
                stage.flops,
                stage.seconds,
                stage.memory_bytes,
                stage.storage_bytes,
                stage.money,
            ):
                assert each.low <= each.expected <= each.high


def test_the_total_is_the_sum_of_the_stages(laptop: RecipePrice) -> None:
    total = laptop.total()
    assert total.flops.expected == pytest.approx(sum(stage.flops.expected for stage in laptop.stages.values()))
    part = laptop.total({"dpd", "export"})
    assert part.seconds.expected == pytest.approx(
        laptop.stages["dpd"].seconds.expected + laptop.stages["export"].seconds.expected
    )


def test_a_stage_type_without_a_cost_is_named_and_left_out() -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    stage = recipe.stages["export"]
    bare = dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, cost=""))
    found = price_recipe(dataclasses.replace(recipe, stages=recipe.stages | {"export": bare}), load_rates())
    assert any("declares no cost" in note for note in found.stages["export"].notes)


def test_a_phase_without_a_step_is_refused_with_its_place() -> None:
    with pytest.raises(RecipeError, match=r"stages.fgwsd_warmup cannot be priced: phase warmup has 1 tokens"):
        price("laptop", "shared.phase_tokens.warmup=1")


def test_an_unknown_device_names_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'h100-sxm'"):
        price("laptop", device="h100")


def test_all_profiles_are_priced_under_a_second_without_torch() -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from nanbeige_core.recipe.load import load_recipe\n"
        "from nanbeige_core.recipe.price.estimate import price_recipe\n"
        "from nanbeige_core.recipe.price.rates import load_rates\n"
        "profiles = ('laptop', 'ablation-1b', 'nanbeige4-3b')\n"
        "recipes = [load_recipe(Path('pipelines.yaml'), profile=profile) for profile in profiles]\n"
        "begun = time.process_time()\n"
        "[price_recipe(recipe, load_rates()) for recipe in recipes]\n"
        "print(time.process_time() - begun)\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'megatron', 'prefect')))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


def test_pricing_reads_no_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begun = time.process_time()
    assert price("laptop").total().flops.expected > 0
    assert time.process_time() - begun < 2
    assert list(tmp_path.iterdir()) == []
