import json
from pathlib import Path

import numpy as np
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome, Runtime
from nanbeige_core.errors import ArtifactError
from nanbeige_core.evals import sweep_report
from nanbeige_core.evals.records import read_records, write_records
from nanbeige_core.evals.sweep_report import judge_arms
from nanbeige_core.recipe.configs.sweep import ComparedArm, FailedRun, SweepReportConfig, input_name
from nanbeige_core.report.drawing import draw

PROBLEMS = 60


def config(*arms: str, seeds: int = 4, **changes: object) -> SweepReportConfig:
    return SweepReportConfig.model_validate(
        {
            "sweep": "small",
            "title": "does it matter",
            "profile": "laptop",
            "stage": "dpd",
            "measure": "heldout_exact_match",
            "higher_is_better": True,
            "baseline": arms[0],
            "arms": [ComparedArm(name=name) for name in arms],
            "seeds": list(range(1, seeds + 1)),
            "seed_fields": ["dpd.seed"],
            **changes,
        }
    )


def runs(means: dict[str, float], *, seeds: int = 4, spread: float = 0.02) -> dict[tuple[str, int], dict[str, float]]:
    """Draw records of every arm and seed; `spread` is the luck of a seed."""
    random = np.random.default_rng(7)
    easy_P = random.uniform(0.2, 0.6, PROBLEMS)
    return {
        (arm, seed): {
            f"problem-{number}": float(value)
            for number, value in enumerate(easy_P + mean + random.normal(0, spread) + random.normal(0, 0.1, PROBLEMS))
        }
        for arm, mean in means.items()
        for seed in range(1, seeds + 1)
    }


def report(tmp_path: Path, asked: SweepReportConfig, drawn: dict[tuple[str, int], dict[str, float]]) -> Outcome:
    inputs: dict[str, InputArtifact] = {}
    for (arm, seed), values in drawn.items():
        name = input_name(arm, seed)
        (tmp_path / name).mkdir()
        write_records(tmp_path / name, {"heldout_exact_match": values})
        inputs[name] = InputArtifact(name, Kind.CHECKPOINT, "0" * 64, tmp_path / name)
    (tmp_path / "work").mkdir()
    job = Job("sweep-small", asked, Runtime(), inputs, tmp_path / "work", tmp_path / "cache")
    return sweep_report.run(job)


def test_a_difference_far_above_the_luck_of_seeds_is_called_shown() -> None:
    (verdict,) = judge_arms(config("base", "much-better"), runs({"base": 0.0, "much-better": 0.3}))
    assert verdict.real
    assert verdict.sentence.startswith("much-better is better than base here: +0.2")


def test_lower_is_better_turns_the_word() -> None:
    asked = config("base", "higher", higher_is_better=False)
    (verdict,) = judge_arms(asked, runs({"base": 0.0, "higher": 0.3}))
    assert verdict.sentence.startswith("higher is worse than base")


def test_two_arms_of_one_recipe_stay_silent() -> None:
    (verdict,) = judge_arms(config("first", "again"), runs({"first": 0.0, "again": 0.0}, spread=0.1))
    assert not verdict.real
    assert verdict.sentence.startswith("No difference between again and first is shown")
    assert "4 times of 5" in verdict.sentence


def test_an_arm_that_changes_nothing_is_named() -> None:
    drawn = runs({"a": 0.0, "b": 0.0})
    drawn |= {("b", seed): drawn["a", seed] for seed in (1, 2, 3)}
    assert (
        "Under 3 of 4 seeds b and a measure the same on every problem"
        in judge_arms(config("a", "b"), drawn)[0].sentence
    )
    assert "the same on every problem" not in judge_arms(config("a", "b"), runs({"a": 0.0, "b": 0.0}))[0].sentence


def test_fewer_than_four_seeds_claim_nothing_however_large_the_difference() -> None:
    (verdict,) = judge_arms(config("base", "better", seeds=3), runs({"base": 0.0, "better": 0.4}, seeds=3))
    assert not verdict.real
    assert "nothing is claimed" in verdict.sentence


def test_several_arms_share_the_five_percent() -> None:
    means = {"base": 0.0, "arm-0": 0.1, **{f"arm-{number}": 0.0 for number in range(1, 6)}}
    alone = judge_arms(config("base", "arm-0"), runs(means))[0]
    among = judge_arms(config(*means), runs(means))[0]
    assert among.found == alone.found
    assert among.adjusted_p > alone.adjusted_p
    assert among.detectable > alone.detectable


def test_a_failed_run_is_named_with_stage_and_cause_and_the_others_are_compared(tmp_path: Path) -> None:
    failure = FailedRun(arm="broken", seed=1, stage="overall_sft", cause="stage overall_sft failed: ValueError: empty")
    asked = config("base", "fine", "broken", failures=(failure,))
    outcome = report(tmp_path, asked, runs({"base": 0.0, "fine": 0.3}))
    assert "1 of 12 runs failed" in outcome.summary
    table = next(section.table for section in outcome.sections if section.title == "Runs that failed")
    assert table == [failure.model_dump()]
    assert outcome.counts["differences_shown"] == 1
    text = (tmp_path / "work" / "summary.md").read_text()
    assert "overall_sft" in text
    assert "fine is better than base" in text


def test_the_report_holds_the_same_numbers_as_its_table_and_draws(tmp_path: Path) -> None:
    outcome = report(tmp_path, config("base", "fine"), runs({"base": 0.0, "fine": 0.3}))
    content = json.loads((tmp_path / "work" / "report.json").read_text())
    (comparison,) = content["comparisons"]
    assert comparison["difference"] == outcome.metrics["fine.difference"]
    assert comparison["low"] < comparison["difference"] < comparison["high"]
    plot = outcome.sections[0].plot
    assert plot is not None
    assert draw(plot).startswith(b"\x89PNG")


def test_one_problem_and_one_seed_still_give_a_report(tmp_path: Path) -> None:
    drawn = {("base", 1): {"a": 0.0}, ("other", 1): {"a": 1.0}}
    outcome = report(tmp_path, config("base", "other", seeds=1), drawn)
    assert "nothing is claimed" in outcome.summary
    assert json.loads((tmp_path / "work" / "report.json").read_text())["comparisons"][0]["low"] is None


def test_an_artifact_without_records_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="--force"):
        read_records(tmp_path, "heldout_exact_match")


def test_a_measure_the_records_lack_is_named(tmp_path: Path) -> None:
    write_records(tmp_path, {"validation_loss": {"sequence-0": 1.0}})
    with pytest.raises(ArtifactError, match="it holds validation_loss"):
        read_records(tmp_path, "heldout_exact_match")
