"""A whole RL stage with a real trainer, engine and judge: killed and resumed, it is the undisturbed one."""

import json
import os
import signal
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow.parquet as pq
import pytest
import torch

from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.recipe.configs.rl import RlConfig
from nanbeige_core.recipe.fingerprint import identity_values
from nanbeige_core.rl.rollout_table import StoredRollout, read_rollouts
from nanbeige_core.rl.train import run
from tests.rl.making import CONFIG, PROMPTS, STEPS, make_job, write_inputs

LOGGED = {
    "gap_mean", "gap_p99", "gen_kl", "ratio_p1", "ratio_p99", "clip_low_share", "clip_high_share",
    "importance_capped_share", "entropy", "dead_group_share", "truncated_share", "unscored_share", "reward",
    "reward_length_4_of_4", "grad_norm", "probe_difference", "rollout_age_updates", "rollout_seconds",
    "update_seconds", "sync_seconds",
}  # fmt: skip
"""What algorithms of this kind are watched by; each step must log all of it."""


class Work:
    """A picklable run of the stage, so that a process of its own can be killed once it reaches a step."""

    def __init__(self, root: Path, name: str, lag: Literal[0, 1], kill_at: int = STEPS + 1) -> None:
        self.root, self.name, self.lag, self.kill_at = root, name, lag, kill_at

    def __call__(self, rank: int) -> None:
        config = CONFIG.model_copy(update={"rollout_lag": self.lag})
        run(make_job(self.root, self.root / self.name, config, progress=self.progress))

    def progress(self, done: float, text: str) -> None:
        if round(done * STEPS) >= self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Stages(NamedTuple):
    root: Path
    lag: int


@pytest.fixture(scope="module", params=[0, 1], ids=["on_policy", "one_step_off_policy"])
def stages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Run the stage undisturbed, and again killed by SIGKILL and resumed."""
    root = tmp_path_factory.mktemp("stage")
    write_inputs(root)
    Work(root, "whole", request.param)(0)
    parallel.teardown()
    with pytest.raises(Exception, match="SIGKILL"):
        parity.run_ranks(1, Work(root, "killed", request.param, kill_at=3), root)
    Work(root, "killed", request.param)(0)
    parallel.teardown()
    return Stages(root, request.param)


def history(root: Path, name: str) -> list[dict[str, float]]:
    return json.loads((root / name / "state.json").read_text())["history"]


def test_a_killed_stage_yields_the_weights_of_an_undisturbed_one(stages: Stages) -> None:
    root = stages.root
    whole, killed = (load_full_weights(root / name / "weights") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    start = load_full_weights(root / "checkpoint" / "weights")
    assert not all(torch.equal(whole[name], start[name]) for name in whole)


def test_every_prompt_is_trained_exactly_once_an_epoch(stages: Stages) -> None:
    rows = read_rollouts(stages.root / "killed")
    assert [row.step for row in rows] == sorted(row.step for row in rows)
    first_epoch = [row.prompt_id for row in rows if row.step < PROMPTS // 2 and row.sample == 0]
    assert sorted(first_epoch) == sorted(f"rl{index}" for index in range(PROMPTS))
    assert {(row.step, row.prompt_id, row.sample): row for row in rows} == _by_key(read_rollouts(stages.root / "whole"))


def test_a_rollout_is_as_old_as_the_lag_and_names_its_weights(stages: Stages) -> None:
    for row in read_rollouts(stages.root / "killed"):
        assert row.policy == f"made-checkpoint@{max(0, row.step - stages.lag)}"
    ages = [entry["rollout_age_updates"] for entry in history(stages.root, "killed")]
    assert ages == [0.0] + [float(stages.lag)] * (STEPS - 1)


def test_older_rollouts_show_in_the_gap_to_the_trainer(stages: Stages) -> None:
    gaps = [entry["gap_mean"] for entry in history(stages.root, "whole")][1:]
    assert all((gap > 1e-3) == bool(stages.lag) for gap in gaps), gaps


def test_the_log_has_each_step_once_with_every_metric(stages: Stages) -> None:
    entries = history(stages.root, "killed")
    assert [entry["step"] for entry in entries] == [float(step) for step in range(STEPS)]
    assert all(entry.keys() >= LOGGED for entry in entries), LOGGED - entries[0].keys()
    lines = (stages.root / "killed" / "scratch" / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [float(step) for step in range(STEPS)]


def test_a_resumed_history_is_the_undisturbed_one_but_for_seconds(stages: Stages) -> None:
    def numbers(name: str) -> list[dict[str, float]]:
        return [{k: v for k, v in entry.items() if "seconds" not in k} for entry in history(stages.root, name)]

    assert numbers("killed") == numbers("whole")


def test_the_heldout_problems_are_recorded(stages: Stages) -> None:
    assert pq.read_table(stages.root / "killed" / "per_problem.parquet").num_rows == 2


def _by_key(rows: list[StoredRollout]) -> dict[tuple[int, str, int], StoredRollout]:
    return {(row.step, row.prompt_id, row.sample): row for row in rows}


def test_a_lag_without_importance_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="rollout_lag is 1 but loss.importance_cap is none"):
        RlConfig.model_validate({"rollout_lag": 1, "loss": {"importance_cap": None}})
    assert "rollout_lag" not in identity_values(RlConfig())
