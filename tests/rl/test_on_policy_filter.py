from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.recipe.configs.rl import OnPolicyFilterConfig
from nanbeige_core.rl import on_policy_filter
from nanbeige_core.rl.on_policy_filter import Rate, decide, expected_outside, keep_probability
from nanbeige_core.rl.pass_rates import RATE_SCHEMA


@pytest.mark.parametrize(("correct", "kept"), [(0, False), (1, False), (2, True), (14, True), (15, False), (16, False)])
def test_two_to_fourteen_of_sixteen_are_kept(correct: int, kept: bool) -> None:
    rate = Rate("p", 16, correct, 0, correct / 16)
    assert (decide(rate, low=0.1, high=0.9, strict=True) == "kept") is kept


def test_a_strict_band_drops_its_bounds() -> None:
    rate = Rate("p", 10, 1, 0, 0.1)
    assert decide(rate, low=0.1, high=0.9, strict=True) == "too_hard"
    assert decide(rate, low=0.1, high=0.9, strict=False) == "kept"


def test_an_unscored_response_drops_its_prompt() -> None:
    assert decide(Rate("p", 16, 7, 1, 7 / 15), low=0.1, high=0.9, strict=True) == "unscored"


@pytest.mark.parametrize(
    ("true_rate", "samples", "expected"),
    [(0.01, 16, 0.011), (0.05, 16, 0.189), (0.10, 16, 0.485), (0.20, 16, 0.859), (0.05, 64, 0.040), (0.15, 8, 0.728)],
)
def test_keep_probability_is_the_exact_binomial(true_rate: float, samples: int, expected: float) -> None:
    assert keep_probability(true_rate, samples, low=0.1, high=0.9) == pytest.approx(expected, abs=6e-4)


def test_a_rate_in_the_middle_is_hardly_ever_a_leak() -> None:
    assert expected_outside([Rate("p", 16, 8, 0, 0.5)], low=0.1, high=0.9) < 1e-3
    assert expected_outside([Rate("p", 16, 2, 0, 0.125)], low=0.1, high=0.9) > 0.1


def make_job(root: Path, correct: list[int]) -> Job:
    for name in ("pass_rates", "problems", "work"):
        (root / name).mkdir()
    rates = [
        {
            "prompt_id": f"p{i}",
            "samples": 16,
            "correct": c,
            "wrong": 16 - c,
            "unscored": 0,
            "truncated": 16 if c == 0 else 0,
            "rate": c / 16,
        }
        for i, c in enumerate(correct)
    ]
    pq.write_table(pa.Table.from_pylist(rates, schema=RATE_SCHEMA), root / "pass_rates" / "pass_rates.parquet")
    rows = [{"id": f"p{i}", "split": "rl", "domain": "math", "group": "g"} for i in range(len(correct))]
    rows += [{"id": f"h-{domain}", "split": "heldout", "domain": domain, "group": "g"} for domain in ("math", "code")]
    pq.write_table(pa.Table.from_pylist(rows), root / "problems" / "prompts.parquet")
    inputs = {
        "pass_rates": InputArtifact("pass_rates", Kind.PASS_RATES, "f", root / "pass_rates"),
        "problems": InputArtifact("problems", Kind.PROMPT_SET, "f", root / "problems"),
    }
    return Job("filter", OnPolicyFilterConfig(), Runtime(), inputs, root / "work", root)


def test_kept_prompts_and_heldout_rows_of_the_domain_are_written_with_all_columns(tmp_path: Path) -> None:
    outcome = on_policy_filter.run(make_job(tmp_path, [0, 5, 16, 9]))
    written = pq.read_table(tmp_path / "work" / "prompts.parquet")
    assert written["id"].to_pylist() == ["p1", "p3", "h-math"]
    assert "group" in written.column_names
    assert (outcome.counts["dropped_too_hard"], outcome.counts["dropped_too_easy"]) == (1, 1)


def test_an_empty_result_stops_and_says_what_other_bands_would_keep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 are never solved, 1 always.*\(0.05, 0.95\) 1"):
        on_policy_filter.run(make_job(tmp_path, [0, 1, 16]))


def test_truncation_is_counted_apart_from_hardness(tmp_path: Path) -> None:
    outcome = on_policy_filter.run(make_job(tmp_path, [0, 5, 16, 9, 1]))
    assert outcome.counts["too_hard_only_by_truncation"] == 1
    assert outcome.counts["dropped_too_hard"] == 2


def test_the_report_compares_the_shipped_bands(tmp_path: Path) -> None:
    outcome = on_policy_filter.run(make_job(tmp_path, [1, 2, 4, 8, 15, 16]))
    bands = {row["band"]: row["kept"] for section in outcome.sections for row in section.table if "band" in row}
    assert (bands["0.2 to 0.8"], bands["0.1 to 0.9"], bands["0.05 to 0.95"]) == (2, 3, 5)
