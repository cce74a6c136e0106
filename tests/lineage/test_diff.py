"""Two artifacts of one stage, one value apart, side by side."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from nanbeige_core.artifacts.store import Store
from nanbeige_core.data.tables import read_rows
from nanbeige_core.errors import ArtifactError
from nanbeige_core.evals.statistics import paired_difference
from nanbeige_core.lineage.diff import Diff, diff
from tests.lineage.conftest import Made, run_recipe


@pytest.fixture(scope="module")
def both(made: Made) -> tuple[Made, Diff]:
    """Pass rates measured at two temperatures."""
    overrides = ("pass_rates_stem.seed=7", "pass_rates_stem.sampling.max_new_tokens=5")
    changed = run_recipe(made.recipe, made.store, *overrides, until="pass_rates_stem")
    first, second = made.references["pass_rates_stem"].address, changed["pass_rates_stem"].address
    return made, diff(made.store, first, second, samples=2)


def test_config_is_compared_field_by_field(both: tuple[Made, Diff]) -> None:
    assert {(one.name, one.a, one.b) for one in both[1].config} == {
        ("seed", 1, 7),
        ("sampling.max_new_tokens", 8, 5),
    }
    assert both[1].inputs == ()


def test_the_paired_difference_is_the_one_of_the_tables(both: tuple[Made, Diff]) -> None:
    made, found = both
    rates = [
        {row["prompt_id"]: row["rate"] for row in read_rows(Path(made.store.root) / address / "pass_rates.parquet")}
        for address in (found.a, found.b)
    ]
    expected = paired_difference(list(rates[0].values()), [rates[1][key] for key in rates[0]])
    line = next(one for one in found.paired if one.of == "pass rate")
    assert (line.problems, line.difference, line.low, line.high) == (8, *expected)


def test_samples_show_the_same_prompt_twice(both: tuple[Made, Diff]) -> None:
    made, found = both
    prompts = {row["id"]: row["prompt"] for row in read_rows(made.path("problems") / "prompts.parquet")}
    texts = [
        {(row["prompt_id"], row["text"]) for row in read_rows(Path(made.store.root) / address / "rollouts.parquet")}
        for address in (found.a, found.b)
    ]
    assert len(found.samples) == 2
    for pair in found.samples:
        assert pair.prompt == prompts[pair.subject]
        assert (pair.subject, pair.a) in texts[0]
        assert (pair.subject, pair.b) in texts[1]


def test_an_artifact_does_not_differ_from_itself(made: Made) -> None:
    found = diff(made.store, "pass_rates_stem", "pass_rates_stem", samples=0)
    assert (found.config, found.inputs) == ((), ())
    assert {one.verdict for one in found.paired} == {"the same on every problem"}
    assert {one.difference for one in found.numbers} <= {0.0}


def test_the_command_prints_json_that_every_reader_takes(made: Made) -> None:
    run = CliRunner().invoke(
        app, ["diff", "fgwsd_warmup", "fgwsd_diverse_stable", "--store", made.store.root, "--json"]
    )
    assert run.exit_code == 0
    found = json.loads(run.stdout, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert {"name": "phase", "a": "warmup", "b": "diverse_stable"} in found["config"]


def test_a_stage_without_records_says_where_to_compare(made: Made) -> None:
    run = CliRunner().invoke(app, ["diff", "tokenizer", "mixture", "--store", made.store.root])
    assert "no paired difference" in run.stdout


def test_an_unknown_artifact_is_named(store: Store) -> None:

    with pytest.raises(ArtifactError, match="no artifact matches 'dpd'"):
        diff(store, "dpd", "dpd")
