"""Public benchmarks through Inspect: the parts without it, and a whole small run where it is installed."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanbeige_core.contract import Outcome, Runtime
from nanbeige_core.evals.benchmarks import (
    Answer,
    Answers,
    add_benchmarks,
    require_benchmarks,
    run_benchmark,
    to_value,
)
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.evaluate import BenchmarkConfig, EvaluateConfig
from nanbeige_core.recipe.fingerprint import identity_values
from nanbeige_core.recipe.load import load_recipe
from tests.generate.making import WINDOW, engine

ROOT = Path(__file__).parents[2]
needs_inspect = pytest.mark.skipif(
    find_spec("inspect_ai") is None or find_spec("inspect_evals") is None, reason="Inspect is not installed"
)
REPORTED = {
    "AIME24", "AIME25", "GPQA-Diamond", "SuperGPQA", "BFCL-V4", "FullStackBench", "Arena-Hard v2", "Multi-Challenge",
    "WritingBench",
}  # fmt: skip


def test_the_large_profile_takes_the_reports_benchmarks_with_its_settings() -> None:
    config = load_recipe(ROOT / "pipelines.yaml", profile="nanbeige4-3b").stages["evaluate"].config
    assert isinstance(config, EvaluateConfig)
    assert {benchmark.name for benchmark in config.benchmarks} == REPORTED
    assert (config.sampling.temperature, config.sampling.top_p) == (0.6, 0.95)
    assert {b.name: b.samples for b in config.benchmarks if b.name.startswith("AIME")} == {"AIME24": 8, "AIME25": 8}


def test_a_config_without_benchmarks_keeps_its_fingerprint() -> None:
    assert not {"benchmarks", "benchmarked"} & identity_values(EvaluateConfig()).keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"judge": "grader"}, "verifier_url is empty"), ({"sandbox": True}, "sandbox_url is empty")],
)
def test_a_missing_address_is_said_before_anything_is_sampled(changes: dict[str, object], message: str) -> None:
    benchmark = BenchmarkConfig.model_validate({"name": "B", "task": "b", "problems": 1, **changes})
    if find_spec("inspect_ai") is None:
        message = "inspect_ai and inspect_evals cannot be imported"
    with pytest.raises((ValueError, ModuleNotFoundError), match=message):
        require_benchmarks((benchmark,), Runtime())
    require_benchmarks((), Runtime())


def test_truncated_is_wrong_unscored_leaves_the_mean_and_errors_cluster_by_problem() -> None:
    said = [Answer("p", 1.0, False), Answer("p", 1.0, False), Answer("q", 0.0, True), Answer("q", None, False)]
    answers = Answers("B", said)
    assert answers.estimate.mean == pytest.approx(2 / 3)
    assert answers.by_problem() == {"p": 1.0, "q": 0.0}
    assert answers.estimate.clusters == 2
    row = add_benchmarks(Outcome(summary="s"), [("final", answers)]).sections[0].table[0]
    assert (row["truncated"], row["unscored"], row["responses"]) == (1, 1, 4)


def test_scores_of_inspect_as_numbers() -> None:
    assert [to_value(v) for v in ("C", "I", "P", 7, True, "unscored")] == [1.0, 0.0, 0.5, 7.0, 1.0, None]


@needs_inspect
def test_a_task_measures_a_checkpoint_with_its_own_samples_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\n"
        "@task\n"
        "def letters():\n"
        "    rows = [Sample(id=i, input=p, target='') for i, p in enumerate(['a', 'b', 'c' * 80])]\n"
        "    return Task(dataset=rows, scorer=includes())\n"
    )
    benchmark = BenchmarkConfig(name="letters", task="task.py@letters", problems=3, samples=4)
    # short enough to be cut off, and one prompt that leaves no room at all
    sampling = SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=WINDOW)
    answers = run_benchmark(
        benchmark, engine(0, scale=0.1), sampling, seed=1, runtime=Runtime(), logs=tmp_path / "logs"
    )
    assert len(answers.answers) == 12
    assert {answer.problem for answer in answers.answers} == {"0", "1", "2"}
    assert all(answer.value == float(not answer.truncated) for answer in answers.answers)
    assert [answer.truncated for answer in answers.answers if answer.problem == "2"] == [True] * 4
    (log,) = (tmp_path / "logs").glob("*.json")
    samples = json.loads(log.read_text())["samples"]
    said = {sample["output"]["choices"][0]["message"]["content"] for sample in samples if sample["id"] == 0}
    assert len(said) > 1, "each epoch must draw anew"


@needs_inspect
def test_tool_calls_are_described_and_read_in_the_chat_templates_way() -> None:
    from inspect_ai.model import ChatMessageUser  # pyright: ignore
    from inspect_ai.tool import ToolInfo  # pyright: ignore

    from nanbeige_core.evals.inspect_engine import to_output, to_turns
    from nanbeige_core.generate.protocol import Reply

    tools = [ToolInfo(name="add", description="Add.")]
    turns = to_turns([ChatMessageUser(content="1+1?")], tools)
    assert [turn["role"] for turn in turns] == ["system", "user"]
    assert '"name": "add"' in turns[0]["content"]
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    output = to_output("m", Reply(f"<think>\nx\n</think>\n\n{call}", "stop"), tools)
    assert (output.stop_reason, output.message.tool_calls[0].arguments) == ("tool_calls", {"a": 1})
    assert to_output("m", Reply("<tool_call>oops</tool_call>", "stop"), tools).message.tool_calls[0].parse_error


@needs_inspect
@pytest.mark.parametrize(
    ("text", "value"), [("[[A>>B]]", 1), ("[[A>B]] no, [[B>A]]", 0), ("[[A=B]]", 0.5), ("A", None), ("[[B>>A]]", 0)]
)
def test_the_last_arena_verdict_counts(text: str, value: float | None) -> None:
    from nanbeige_core.evals.benchmark_tasks import read_verdict

    assert read_verdict(text) == value


@needs_inspect
def test_writing_bench_prompts_of_the_package_are_read(tmp_path: Path) -> None:
    from inspect_evals.writingbench import writingbench  # pyright: ignore

    task = writingbench(judge_model="mockllm/model")
    assert len(task.dataset) == 1000
