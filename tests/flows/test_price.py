"""The price as a person asks for it: `nanbeige price`, and `nanbeige plan`."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.price.calibration import FILE_NAME, Calibration, Fit, save_calibration
from nanbeige_core.recipe.price.rates import SHIPPED
from tests.conftest import RECIPE_FILE


def nanbeige(*arguments: str, store: Path) -> str:
    options = ["--file", str(RECIPE_FILE), "--store", str(store)]
    result = CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_price_prints_every_stage_a_total_and_what_it_rests_on(tmp_path: Path) -> None:
    shown = nanbeige("price", "--profile", "nanbeige4-3b", store=tmp_path)
    for text in ("fgwsd_diverse_stable", "12.4 T", "2.9e23", "total", "What this rests on", "ours", "note"):
        assert text in shown
    assert list(tmp_path.iterdir()) == []


def test_json_holds_every_bound_and_the_source_of_every_assumption(tmp_path: Path) -> None:
    found = json.loads(nanbeige("price", "--json", store=tmp_path))
    assert len(found["stages"]) == 29
    rl = found["stages"]["rl_stem"]
    assert rl["tokens"]["low"] <= rl["tokens"]["expected"] <= rl["tokens"]["high"]
    assert {part["kind"] for part in rl["parts"]} == {"sampling", "training", "processing"}
    assert sum(stage["flops"]["expected"] for stage in found["stages"].values()) == pytest.approx(
        found["total"]["flops"]["expected"]
    )
    assert all(row["source"] for row in found["assumptions"])


def test_an_override_changes_the_price(tmp_path: Path) -> None:
    def tokens(*more: str) -> float:
        found = json.loads(nanbeige("price", "--json", *more, store=tmp_path))
        return found["stages"]["cold_start_sft"]["tokens"]["low"]

    assert tokens("--set", "cold_start_sft.epochs=4") == pytest.approx(2 * tokens())


def test_an_adopted_stage_and_what_it_alone_reads_cost_nothing_and_the_rest_is_priced(tmp_path: Path) -> None:
    plain = json.loads(nanbeige("price", "--json", store=tmp_path))["stages"]
    adopted = "fgwsd_decay.adopted=0123456789abcdef"
    shown = json.loads(nanbeige("price", "--json", "--set", adopted, store=tmp_path))
    stages = shown["stages"]
    for name in ("fgwsd_decay", "fgwsd_hq_stable", "fgwsd_warmup"):
        assert stages[name]["flops"]["high"] == stages[name]["money"]["high"] == stages[name]["seconds"]["high"] == 0
    for name in ("teacher", "cold_start_sft", "rl_stem", "export"):
        assert stages[name]["flops"] == plain[name]["flops"]
    text = nanbeige("price", "--set", adopted, store=tmp_path)
    assert "note fgwsd_decay: adopted" in text


def test_another_rate_card_changes_the_money(tmp_path: Path) -> None:
    card = tmp_path / "rates.yaml"
    text = SHIPPED.read_text()
    assert "hour: {low: 1.8, expected: 2.5, high: 7.0" in text
    card.write_text(text.replace("hour: {low: 1.8, expected: 2.5, high: 7.0", "hour: {low: 18, expected: 25, high: 70"))

    def money(*more: str) -> float:
        shown = nanbeige("price", "--profile", "nanbeige4-3b", "--json", *more, store=tmp_path)
        return json.loads(shown)["total"]["money"]["expected"]

    assert money("--rates", str(card)) == pytest.approx(10 * money(), rel=0.01)


def test_the_plan_shows_the_price_of_what_would_run(tmp_path: Path) -> None:
    shown = nanbeige("plan", "--until", "mixture", store=tmp_path)
    assert "price: " in shown
    assert "device-hours on laptop-core" in shown
    rows = json.loads(nanbeige("plan", "--until", "mixture", "--json", store=tmp_path))
    assert {row["stage"] for row in rows if "price" in row} == {row["stage"] for row in rows if row["action"] == "RUN"}
    priced = json.loads(nanbeige("price", "--json", store=tmp_path))["stages"]
    assert all(row["price"]["seconds"] == priced[row["stage"]]["seconds"] for row in rows if "price" in row)


def test_what_was_measured_of_this_machine_is_used_and_named(tmp_path: Path) -> None:
    slow = Fit(flops_per_second=1e9, pass_seconds=0.001)
    made = Calibration(
        device="laptop-core",
        dtype="float32",
        machine="here",
        measured="2026-01-02T03:04:05",
        matmul_flops_per_second=1e10,
        training=slow,
        reading=slow,
        decoding=slow,
    )

    def seconds() -> float:
        return json.loads(nanbeige("price", "--json", store=tmp_path))["total"]["seconds"]["expected"]

    before = seconds()
    save_calibration(made, tmp_path / ".cache" / FILE_NAME)
    assert seconds() > 3 * before
    assert "measured on here, 2026-01-02T03:04" in nanbeige("price", store=tmp_path)


def test_a_plan_with_its_price_takes_less_than_a_second_of_processor_time(tmp_path: Path) -> None:
    nanbeige("plan", "--json", store=tmp_path)  # imports
    begun = time.process_time()
    nanbeige("plan", "--profile", "nanbeige4-3b", "--json", "--set", "shared.seed=77", store=tmp_path)
    assert time.process_time() - begun < 1  # a sixth of it on an idle core, sweeps of all profiles checked


def test_a_missing_rate_card_is_an_error_of_the_request(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no rate card at"):
        nanbeige("price", "--rates", str(tmp_path / "none.yaml"), store=tmp_path)
