"""Pass rates and roll-out-only as whole stages with a real engine and judge: resumable without bias, nothing lost."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanbeige_core.contract import Job
from nanbeige_core.megatron import parallel
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import PassRatesConfig, RolloutsConfig
from nanbeige_core.rl import pass_rates, rollouts, train
from nanbeige_core.rl.prompts import FILE, RATES
from nanbeige_core.rl.rollout_table import FILE as ROLLOUTS
from nanbeige_core.rl.rollout_table import StoredRollout, read_rollouts, step_file
from tests.rl.making import CONFIG, PROMPTS, make_job, write_inputs

RATED = PassRatesConfig(
    domain="preference", samples=4, chunk_prompts=2, sampling=SamplingConfig(max_new_tokens=8), seed=3
)
ROLLED = RolloutsConfig(
    domain="preference", steps=2, prompts_per_step=2, group_size=4, sampling=CONFIG.sampling, seed=CONFIG.seed
)
TOO_LONG = "rl1"


class Killed(BaseException):
    """What a lost process looks like from inside: nothing after it runs."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("sampling")
    write_inputs(made)
    yield made
    parallel.teardown()


def job(root: Path, name: str, config: object, *, stop_after: int = 1000) -> Job:
    """Return a stage that dies when it has committed `stop_after` pieces."""
    done = 0

    def progress(_: float, text: str) -> None:
        nonlocal done
        done += 1
        if done >= stop_after:
            raise Killed(text)

    made = make_job(root, root / name, CONFIG, progress=progress)
    return replace(made, stage=name, config=config, inputs=made.inputs | {"problems": made.inputs["prompts"]})


@pytest.fixture(scope="module")
def rated(root: Path) -> Path:
    """Measure once undisturbed, and once killed after the first chunk and gone on; return the second."""
    pass_rates.run(job(root, "whole", RATED))
    with pytest.raises(Killed):
        pass_rates.run(job(root, "killed", RATED, stop_after=1))
    (first,) = (root / "killed").rglob("00000.parquet")
    written = first.stat().st_mtime_ns
    half_done = first.with_name("00001.partial")
    half_done.write_bytes(b"half a chunk")
    pass_rates.run(job(root, "killed", RATED))
    assert first.stat().st_mtime_ns == written, "a committed chunk is never drawn again"
    return root / "killed"


def test_a_killed_measurement_goes_on_to_the_same_samples_and_rates(root: Path, rated: Path) -> None:
    for file in (RATES, ROLLOUTS):
        whole, killed = (pq.read_table(root / name / file) for name in ("whole", "killed"))
        columns = [name for name in whole.column_names if name != "stage"]
        assert whole.select(columns).equals(killed.select(columns))
    assert pq.read_table(rated / RATES).num_rows == PROMPTS


def test_truncated_is_wrong_and_counted_apart_and_every_sample_has_one_of_three_outcomes(rated: Path) -> None:
    rates = pq.read_table(rated / RATES).to_pylist()
    samples = read_rollouts(rated)
    assert sum(row["truncated"] for row in rates) == sum(row.finish_reason == "length" for row in samples) > 0
    assert {row.verdict for row in samples if row.finish_reason == "length"} == {"wrong"}
    for row in rates:
        assert row["correct"] + row["wrong"] + row["unscored"] == row["samples"] == RATED.samples
        assert row["rate"] == row["correct"] / (row["correct"] + row["wrong"])


def test_a_prompt_that_leaves_no_room_is_unscored_and_never_zero(root: Path) -> None:
    made = job(root, "long", RATED)
    prompts = root / "long-prompts"
    prompts.mkdir()
    rows = pq.read_table(made.inputs["problems"].path / FILE).to_pylist()
    rows = [row | ({"prompt": "x" * 400} if row["id"] == TOO_LONG else {}) for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), prompts / FILE)
    pass_rates.run(replace(made, inputs=made.inputs | {"problems": replace(made.inputs["problems"], path=prompts)}))
    rates = {row["prompt_id"]: row for row in pq.read_table(root / "long" / RATES).to_pylist()}
    assert (rates[TOO_LONG]["rate"], rates[TOO_LONG]["unscored"]) == (None, 1)
    (sample,) = [row for row in read_rollouts(root / "long") if row.prompt_id == TOO_LONG]
    assert (sample.verdict, sample.reason, sample.reward) == ("unscored", pass_rates.NOT_FITTING, None)


def test_roll_out_only_samples_what_the_rl_stage_samples_first_and_survives_a_kill(root: Path) -> None:
    with pytest.raises(Killed):
        rollouts.run(job(root, "rolled", ROLLED, stop_after=1))
    rollouts.run(job(root, "rolled", ROLLED))
    rolled = read_rollouts(root / "rolled")
    assert [row.step for row in rolled] == [0] * 8 + [1] * 8
    trained = make_job(root, root / "trained", CONFIG.model_copy(update={"steps": 1}))
    train.run(trained)
    parallel.teardown()
    assert list(map(essence, read_rollouts(trained.work))) == list(map(essence, rolled[:8]))
    assert step_file(trained.work, 0).exists()


def essence(row: StoredRollout) -> tuple[object, ...]:
    return row.prompt_id, row.sample, row.tokens, row.reward, row.policy, row.sampler
