"""Time after calibration: a fit from two sizes predicts bursts of other sizes on the same machine."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nanbeige_core.errors import RecipeError
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.throughput import Probe, calibrate, fit, measure, open_probe_trainer, training_probe
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.price.calibration import Fit, load_calibration, save_calibration
from nanbeige_core.recipe.price.estimate import price_recipe
from nanbeige_core.recipe.price.rates import load_rates
from nanbeige_core.recipe.price.transformer import Decoder
from tests.conftest import RECIPE_FILE

BURST_STEPS = 4


@pytest.fixture
def one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    parallel.teardown()
    yield
    parallel.teardown()


def laptop_decoder() -> Decoder:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    return Decoder(recipe.stages["fgwsd_warmup"].config.model, 4096)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("one_thread")
def test_a_training_burst_takes_the_time_the_calibration_expects() -> None:
    """Small, large and burst take turns in one process; its processor time leaves other programs out."""
    decoder = laptop_decoder()
    trainer = open_probe_trainer(decoder, threads=1)
    small = training_probe(trainer, decoder, rows=1, length=64)
    large = training_probe(trainer, decoder, rows=8, length=256)
    between = training_probe(trainer, decoder, rows=4, length=192)

    def burst() -> None:
        for _ in range(BURST_STEPS):
            between.run()

    probes = {"small": small, "large": large, "burst": Probe(burst, between.flops, between.layer_passes)}
    seconds = measure(probes, rounds=7, clock=time.process_time)
    fitted = fit(small, seconds["small"], large, seconds["large"])
    expected = fitted.seconds(between.flops, between.layer_passes) * BURST_STEPS
    assert expected == pytest.approx(seconds["burst"], rel=0.2)


@pytest.mark.usefixtures("one_thread")
def test_a_calibration_replaces_the_card_s_figures_and_survives_a_restart(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE_FILE, profile="laptop")
    made = calibrate(recipe, "laptop-core", rounds=1)
    save_calibration(made, tmp_path / "deep" / "calibration.json")
    loaded = load_calibration(tmp_path / "deep" / "calibration.json")
    assert loaded == made
    plain, measured = (price_recipe(recipe, load_rates(), calibration=given) for given in (None, loaded))
    phase = measured.stages["fgwsd_diverse_stable"]
    (training, reading) = phase.parts
    passes = training.tokens.expected / (8 * 256)
    assert training.seconds.expected == pytest.approx(made.training.seconds(training.flops.expected, 4 * passes))
    start = load_rates().device("laptop-core").start_seconds.expected
    assert phase.seconds.expected == pytest.approx(training.seconds.expected + reading.seconds.expected + start)
    assert phase.flops == plain.stages["fgwsd_diverse_stable"].flops
    # what was measured on one device says nothing about another
    gpu = price_recipe(recipe, load_rates(), device="h100-sxm", calibration=loaded)
    assert gpu.calibration is None


def test_two_points_give_rate_and_overhead() -> None:
    small, large = Probe(int, 1e9, 4), Probe(int, 8e9, 4)
    found = fit(small, 4 * 0.01 + 0.1, large, 4 * 0.01 + 0.8)
    assert found.flops_per_second == pytest.approx(1e10)
    assert found.pass_seconds == pytest.approx(0.01)


def test_noise_never_gives_a_negative_overhead() -> None:
    found = fit(Probe(int, 1e9, 4), 0.05, Probe(int, 8e9, 4), 0.8)
    assert found == Fit(flops_per_second=1e10, pass_seconds=0.0)


def test_a_damaged_file_is_refused_and_a_missing_one_is_none(tmp_path: Path) -> None:
    assert load_calibration(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RecipeError, match="price --calibrate"):
        load_calibration(tmp_path / "bad.json")
