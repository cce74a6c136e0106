"""Stored rollouts: what is written can be trained on again and scored again."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanbeige_core.generate.protocol import Completion
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.rescore import rescore
from nanbeige_core.rl.rewards import Rollout
from nanbeige_core.rl.rollout_table import (
    describe_sampler,
    policy_name,
    read_rollouts,
    step_file,
    to_rows,
    to_table,
    write_table,
)
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.rl.source import StoredSource
from nanbeige_core.rl.step_log import summarise_rollout

ROW = PromptRow("p1", "math", "rl", "en", "3+4?", "", "7", "math", '{"gold": "7"}', "test")
TEXTS = ["</think>\\boxed{7}", "</think>\\boxed{8}", "</think>\\boxed{7 or 8}", "</think>\\boxed{7"]
REWARDS = [1.0, 0.0, 1.0, math.nan]


def group(row: PromptRow = ROW) -> list[Rollout]:
    return [
        Rollout(
            row,
            Completion((1, 2), (3, 4, 5), (-0.5, -0.25, -1.0), "length" if index == 3 else "stop"),
            text,
            reward,
            "stored",
        )
        for index, (text, reward) in enumerate(zip(TEXTS, REWARDS, strict=True))
    ]


def store(directory: Path, steps: int = 2) -> Path:
    for step in range(steps):
        rows = to_rows(
            [group(), group(ROW._replace(id="p2"))],
            stage="rl_stem",
            step=step,
            policy=policy_name("abc", step),
            sampler=describe_sampler(SamplingConfig(), 7),
        )
        write_table(step_file(directory, step), to_table(rows))
    return directory


def test_a_replayed_group_is_the_group_that_was_stored(tmp_path: Path) -> None:
    stored = read_rollouts(store(tmp_path))
    source = StoredSource(stored, {"p1": ROW, "p2": ROW._replace(id="p2")})
    (first, _), parts = source.groups(0, 0, 1), [source.groups(1, part, 2) for part in range(2)]
    assert [r.completion for r in first] == [r.completion for r in group()]
    assert [r.text for r in first] == TEXTS
    assert [r.reward for r in first][:3] == REWARDS[:3]
    assert math.isnan(first[3].reward)
    assert [[g[0].row.id for g in part] for part in parts] == [["p1"], ["p2"]]
    assert source.steps == 2


def test_each_row_names_its_policy_and_sampler(tmp_path: Path) -> None:
    stored = read_rollouts(store(tmp_path))
    assert {row.policy for row in stored} == {"abc@0", "abc@1"}
    assert '"temperature":1.0' in stored[0].sampler
    assert [row.verdict for row in stored[:4]] == ["correct", "wrong", "correct", "unscored"]


def test_a_changed_verifier_shows_the_verdicts_it_flips(tmp_path: Path) -> None:
    stored = [row for row in read_rollouts(store(tmp_path, steps=1)) if row.prompt_id == "p1"]
    with Scorer(cache=tmp_path, workers=1) as scorer:
        result = rescore(stored, {"p1": ROW}, scorer)
    assert [(flip.old.sample, flip.new.verdict, flip.new.reason) for flip in result.flips] == [
        (2, "wrong", "hedged"),
        (3, "wrong", "truncated"),
    ]
    assert [row.reward for row in result.rollouts] == [1.0, 0.0, 0.0, 0.0]


def test_win_rates_are_not_rescored(tmp_path: Path) -> None:
    stored = read_rollouts(store(tmp_path, steps=1))
    open_question = ROW._replace(verifier="pairwise")
    with Scorer(cache=tmp_path, workers=1) as scorer:
        result = rescore(stored, {"p1": open_question, "p2": open_question}, scorer)
    assert (result.kept, result.flips) == (len(stored), [])


def test_rollouts_of_an_older_layout_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt_id": ["p1"]}), tmp_path / "rollouts.parquet")
    with pytest.raises(ValueError, match=r"lacks the columns stage, step"):
        read_rollouts(tmp_path)
    with pytest.raises(ValueError, match="holds neither"):
        read_rollouts(tmp_path / "nothing")


def test_the_log_counts_dead_groups_truncation_and_entropy(tmp_path: Path) -> None:
    table = pq.read_table(step_file(store(tmp_path, steps=1), 0))
    numbers = summarise_rollout(table, longest=4)
    assert numbers["reward"] == pytest.approx(2 / 3)
    assert numbers["entropy"] == pytest.approx(1.75 / 3)
    assert (numbers["dead_group_share"], numbers["truncated_share"], numbers["unscored_share"]) == (0, 0.25, 0.25)
    assert numbers["reward_length_3_of_4"] == pytest.approx(2 / 3)
