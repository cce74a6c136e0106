"""A stage that trains on stored rollouts: verdicts shown first, ages told, earlier domains watched, plateau seen."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.convert import load_full_weights
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import HeldOutConfig, MonitorConfig, PolicyLossConfig
from nanbeige_core.rl.prompts import FILE, PromptRow
from nanbeige_core.rl.rewards import Rollout
from nanbeige_core.rl.rollout_table import describe_sampler, policy_name, step_file, to_rows, to_table, write_table
from nanbeige_core.rl.train import run
from tests.generate.making import tokenizer
from tests.rl.making import CONFIG, make_job, write_inputs

STORED, TRAINED = 4, 2
TESTS = json.dumps({"entry": "f", "public": [[[1], 2]], "private": [[[5], 6], [[-3], -2]]})
RIGHT, WRONG = "```python\ndef f(x):\n    return x + 1\n```", "```python\ndef f(x):\n    return x\n```"
CONFIGURED = CONFIG.model_copy(
    update={
        "domain": "coding",
        "steps": STORED,
        "loss": PolicyLossConfig(),
        "heldout": HeldOutConfig(samples=1),
        # a random policy never solves anything: the second measurement brings no new best
        "monitor": MonitorConfig(every=1, patience=1, limit=2),
    }
)


def row(name: str, split: str, *, domain: str = "code") -> PromptRow:
    verifier, spec = ("code", TESTS) if domain == "code" else ("math", '{"gold": "7"}')
    return PromptRow(name, domain, split, "en", f"Say {name}?", "", "", verifier, spec, "test")


def write_prompts(directory: Path, rows: list[PromptRow]) -> InputArtifact:
    directory.mkdir()
    pq.write_table(pa.Table.from_pylist([item._asdict() for item in rows]), directory / FILE)
    return InputArtifact(directory.name, Kind.PROMPT_SET, f"made-{directory.name}", directory)


def write_rollouts(directory: Path) -> InputArtifact:
    """Write groups of two right and two wrong programs; one wrong one was once taken for right."""
    for step in range(STORED):
        groups: list[list[Rollout]] = []
        for name in ("a", "b"):
            ids = tuple(tokenizer().encode(f"Say {name}?"))
            texts = [RIGHT, RIGHT + " ", WRONG, WRONG + " "]
            drawn = [Completion(ids, tuple(range(50 + i, 56 + i)), (-4.0,) * 6, "stop") for i in range(4)]
            rewards = [1.0, 1.0, 0.0, float(step == 1 and name == "b")]
            groups.append(
                [
                    Rollout(row(name, "rl"), item, text, reward, "stored")
                    for item, text, reward in zip(drawn, texts, rewards, strict=True)
                ]
            )
        sampler = describe_sampler(SamplingConfig(), step)
        policy = policy_name("made-checkpoint", 0)
        rows = to_rows(groups, stage="rollouts", step=step, policy=policy, sampler=sampler)
        write_table(step_file(directory, step), to_table(rows))
    return InputArtifact("rollouts", Kind.ROLLOUTS, "made-rollouts", directory)


class Trained(NamedTuple):
    job: Job
    outcome: Outcome
    said: list[str]

    @property
    def history(self) -> list[dict[str, float]]:
        return json.loads((self.job.work / "state.json").read_text())["history"]


@pytest.fixture(scope="module")
def trained(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("train-only")
    write_inputs(root)
    said: list[str] = []
    job = make_job(root, root / "work", CONFIGURED, progress=lambda done, text: said.append(text))
    problems = [row(f"h{n}", "heldout") for n in range(2)]
    inputs = {
        **job.inputs,
        "prompts": write_prompts(root / "code", [row("a", "rl"), row("b", "rl"), *problems]),
        "problems": write_prompts(root / "problems", [*problems, row("m", "heldout", domain="math")]),
        "rollouts": write_rollouts(root / "rollouts"),
    }
    cache = Path(pytestconfig.cache.mkdir("python-guest"))  # type: ignore[union-attr]
    job = replace(job, stage="rl_coding", inputs=inputs, cache=cache)
    outcome = run(job)
    parallel.teardown()
    return Trained(job, outcome, said)


def test_changed_verdicts_are_told_before_the_first_step(trained: Trained) -> None:
    first, *steps = trained.said
    assert "32 stored rollouts of made-checkpoint@0: 32 scored again before training, 1 verdicts changed" in first
    assert "1 from correct to wrong" in first
    assert [text.startswith("step ") for text in steps] == [True] * TRAINED


def test_the_report_shows_the_changed_verdicts(trained: Trained) -> None:
    (table,) = [section.table for section in trained.outcome.sections if section.title == "Changed verdicts"]
    assert [(item["prompt"], item["was"], item["is"]) for item in table] == [
        ("b", "correct (stored)", "wrong (no test)")
    ]


def test_the_log_knows_how_old_stored_rollouts_are(trained: Trained) -> None:
    assert [entry["rollout_age_updates"] for entry in trained.history] == [0.0, 1.0]


def test_stored_rollouts_move_the_weights_and_are_not_stored_again(trained: Trained) -> None:
    start = load_full_weights(trained.job.inputs["checkpoint"].path / "weights")
    ended = load_full_weights(trained.job.work / "weights")
    assert not all(torch.equal(start[name], ended[name]) for name in start)
    assert not (trained.job.work / "rollouts").exists()


def test_today_s_verdicts_are_what_is_trained_on(trained: Trained) -> None:
    assert [entry["reward"] for entry in trained.history] == [0.5, 0.5]


def test_earlier_domains_are_measured_and_a_plateau_ends_the_stage(trained: Trained) -> None:
    assert [entry["validation_stem"] for entry in trained.history] == [0.0, 0.0]
    assert "Stopped at a plateau, 2 steps early." in trained.outcome.summary
    assert trained.outcome.counts["regressed_domains"] == 0
