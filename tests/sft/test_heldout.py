import json
from pathlib import Path

import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.recipe.configs.sft import HeldoutConfig
from nanbeige_core.sft.heldout import RECORD, measure_input

HOW = HeldoutConfig(problems=2)
ATTEMPT = ["p1", "math", "4", "correct", "", False, 3]


def job_after(tmp_path: Path, *, problems: str = "aaaa") -> Job:
    """A stage whose input checkpoint holds a record and nothing else: sampling it would fail."""
    record = {
        "how": {"config": HOW.model_dump(mode="json"), "problems": "aaaa", "tokenizer": "bbbb"},
        "prompt_ids": ["p1"],
        "values": [1.0],
        "attempts": [ATTEMPT],
    }
    (tmp_path / RECORD).write_text(json.dumps(record))
    kinds = {"checkpoint": Kind.CHECKPOINT, "problems": Kind.PROMPT_SET, "tokenizer": Kind.TOKENIZER}
    fingerprints = {"checkpoint": "cccc", "problems": problems, "tokenizer": "bbbb"}
    inputs = {name: InputArtifact(name, kind, fingerprints[name], tmp_path) for name, kind in kinds.items()}
    return Job("overall_sft", None, Runtime(), inputs, tmp_path / "work", tmp_path / "cache")


def test_a_checkpoint_measured_in_the_same_way_is_not_measured_again(tmp_path: Path) -> None:
    scores = measure_input(job_after(tmp_path), HOW)
    assert (scores.prompt_ids, scores.values) == (["p1"], [1.0])
    assert scores.attempts[0].outcome == "correct"


@pytest.mark.parametrize("change", [{"samples": 2}, {"seed": 5}])
def test_another_way_of_measuring_measures_again(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(FileNotFoundError):
        measure_input(job_after(tmp_path), HOW.model_copy(update=change))


def test_other_problems_measure_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure_input(job_after(tmp_path, problems="dddd"), HOW)
