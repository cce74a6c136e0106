"""The pairwise judge trained for real, and what is reported of it."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Outcome
from nanbeige_core.megatron import parallel
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import RewardModelConfig
from nanbeige_core.rl import reward_model
from nanbeige_core.rl.judge import PairwiseJudge
from nanbeige_core.rl.judge_pairs import CORRUPTIONS, POLICY, TIE, JudgePair, build_pairs
from nanbeige_core.rl.prompts import FILE, PromptRow
from nanbeige_core.rl.reward_model_report import Judged, length_correlation
from tests.rl.making import make_job, write_inputs


def rows(count: int) -> list[PromptRow]:
    return [
        PromptRow(f"q{n}", "general", "rl", "en", f"Say {n}?", "", "Yes, I do.", "pairwise", "{}", "test")
        for n in range(count)
    ]


def test_pairs_hold_policy_answers_every_corruption_and_ties_at_one_half() -> None:
    chosen = rows(12)
    pairs = build_pairs(chosen, [["No.", "No.", "Yes, I do."]] * 12, corruptions=2, ties=0.5, seed=0)
    assert {pair.kind for pair in pairs} >= {POLICY, TIE} | (set(CORRUPTIONS) - {"other_prompt", "other_language"})
    assert all(pair.label == (0.5 if pair.kind == TIE else 1.0) for pair in pairs)
    assert all((pair.better == pair.worse) == (pair.kind == TIE) for pair in pairs), "a reference beats no equal text"
    assert sum(pair.kind == POLICY for pair in pairs) == 12, "equal policy answers are one pair"


def test_consistency_and_length_correlation_by_hand() -> None:
    pairs = [JudgePair(f"p{n}", "q", "a" * (n + 1), "b", "k", 1.0) for n in range(4)]
    judged = Judged(pairs, [0.9, 0.8, 0.9, 0.95], [0.2, 0.9, 0.9, 0.95])
    assert judged.swap_consistency == 0.75
    assert judged.averaged == pytest.approx([0.55, 0.85, 0.9, 0.95])
    assert length_correlation(judged) == pytest.approx(1.0), "the longer the better answer, the surer the judge"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, PairwiseJudge]:
    root: Path = tmp_path_factory.mktemp("judge")
    write_inputs(root)
    (root / "problems").mkdir()
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows(16)]), root / "problems" / FILE)
    made = make_job(root, root / "work")
    problems = InputArtifact("problems", Kind.PROMPT_SET, "made-problems", root / "problems")
    config = RewardModelConfig(
        steps=16, pairs_per_step=6, learning_rate=1e-2, warmup_steps=2, policy_samples=1, corruptions=2, ties=0.1,
        validation_share=0.3, sampling=SamplingConfig(max_new_tokens=8),
    )  # fmt: skip
    job = replace(made, stage="reward_model", config=config, inputs=made.inputs | {"problems": problems})
    outcome = reward_model.run(job)
    parallel.teardown()
    return outcome, PairwiseJudge.open(root / "work", root / "tokenizer", job.runtime)


def test_a_judge_learns_and_reports_its_known_weaknesses(trained: tuple[Outcome, PairwiseJudge]) -> None:
    outcome, _ = trained
    assert outcome.gain is not None
    assert outcome.gain.after > max(outcome.gain.before, 0.8)
    assert outcome.metrics["last_loss"] < 0.5 * outcome.metrics["first_loss"]
    assert {"swap_consistency", "length_correlation"} <= outcome.metrics.keys()


def test_a_verdict_is_the_mean_of_both_orders(trained: tuple[Outcome, PairwiseJudge]) -> None:
    _, judge = trained
    (forth,) = judge.win_probability(["Say 3?"], ["Yes, I do."], ["Say 3?"])
    (back,) = judge.win_probability(["Say 3?"], ["Say 3?"], ["Yes, I do."])
    assert forth == pytest.approx(1 - back)
    assert forth > 0.5
    assert judge.win_probability(["Say 3?"], ["No."], ["No."]) == pytest.approx([0.5])
