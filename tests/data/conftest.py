"""Small real inputs for the data stages: a corpus in two languages and code, problems, and a chain of jobs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.data.tables import write_rows

PROMPT_COLUMNS = ("id", "domain", "split", "language", "prompt", "reasoning", "answer", "verifier", "spec", "source")
MakeJob = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path) -> MakeJob:
    def make(name: str, config: Any, **inputs: tuple[Kind, Path]) -> Job:
        work = tmp_path / name
        work.mkdir(exist_ok=True)
        artifacts = {key: InputArtifact(key, kind, "0" * 16, path) for key, (kind, path) in inputs.items()}
        return Job(name, config, Runtime(), artifacts, work, tmp_path / "cache")

    return make


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    schema = pa.schema([(name, pa.string()) for name in PROMPT_COLUMNS])
    rows = [_problem(split, number) for split in ("pretrain", "sft", "heldout", "eval") for number in range(40)]
    write_rows(tmp_path / "problems" / "prompts.parquet", schema, rows)
    return tmp_path / "problems"


def _problem(split: str, number: int) -> dict[str, str]:
    total = str(2 * number)
    asked = f"In split {split}, Anna has {number} red apples and {number} green apples. How many apples has she?"
    return {
        "id": f"{split}-{number}",
        "domain": "math",
        "split": split,
        "language": "en",
        "prompt": asked,
        "reasoning": f"{number} + {number} = {total}",
        "answer": f"\\boxed{{{total}}}",
        "verifier": "math",
        "spec": '{"gold": "' + total + '"}',
        "source": "test",
    }
