"""Public benchmarks through Inspect (report section 8): avg@k, errors clustered by problem, truncation counted wrong.

Inspect and its task collection (the `benchmarks` extra) bring prompts, data sets and scorers; the mean over epochs and
its error are computed here, by the code every other suite uses. AIME, GPQA, BFCL and WritingBench are the collection's;
what it lacks stands in `benchmark_tasks`.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from nanbeige_core.contract import Outcome, Runtime, Section
from nanbeige_core.evals.statistics import Estimate, mean_with_standard_error
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.evaluate import BenchmarkConfig

REMEDY = "Install the extra of this project: pip install '.[benchmarks]', or set evaluate.benchmarks to []."
TRUNCATED = frozenset({"max_tokens", "model_length"})
"""Stop reasons of a response that ran out of room."""


class Answer(NamedTuple):
    """One response: its problem, its value (None = unscored), whether it was cut off."""

    problem: str
    value: float | None
    truncated: bool


class Answers(NamedTuple):
    """Everything one checkpoint said to one benchmark."""

    benchmark: str
    answers: list[Answer]

    @property
    def estimate(self) -> Estimate:
        """Return mean and standard error over scored responses, clustered by problem."""
        scored = [(answer.value, answer.problem) for answer in self.answers if answer.value is not None]
        if not scored:
            return Estimate(0.0, float("inf"), 0, 0)
        return mean_with_standard_error([value for value, _ in scored], [problem for _, problem in scored])

    def by_problem(self) -> dict[str, float]:
        """Return problem -> mean value, without problems of which nothing could be scored."""
        values: dict[str, list[float]] = {}
        for answer in self.answers:
            if answer.value is not None:
                values.setdefault(answer.problem, []).append(answer.value)
        return {problem: sum(each) / len(each) for problem, each in values.items()}

    def row(self, checkpoint: str) -> dict[str, Any]:
        """Return the result as a table row."""
        estimate = self.estimate
        return {
            "checkpoint": checkpoint,
            "suite": self.benchmark,
            "mean": round(estimate.mean, 4),
            "standard_error": round(estimate.standard_error, 4),
            "problems": estimate.clusters,
            "responses": len(self.answers),
            "truncated": sum(answer.truncated for answer in self.answers),
            "unscored": sum(answer.value is None for answer in self.answers),
        }


def require_benchmarks(benchmarks: tuple[BenchmarkConfig, ...], runtime: Runtime) -> None:
    """Raise before anything is sampled when Inspect, or the address of a judge or sandbox, is missing."""
    missing = [name for name in ("inspect_ai", "inspect_evals") if find_spec(name) is None]
    if benchmarks and missing:
        raise ModuleNotFoundError(
            f"evaluate.benchmarks names {', '.join(b.name for b in benchmarks)}, but {' and '.join(missing)} cannot be "
            f"imported. {REMEDY}"
        )
    for names, field, what in (
        ([b.name for b in benchmarks if b.judge and not runtime.verifier_url], "verifier_url", "a grading model"),
        (
            [b.name for b in benchmarks if b.sandbox and not runtime.sandbox_url],
            "sandbox_url",
            "a SandboxFusion server",
        ),
    ):
        if names:
            raise ValueError(
                f"{', '.join(names)} need {what}, but evaluate.runtime.{field} is empty. Set it to the address where "
                "one is served, or drop these from evaluate.benchmarks."
            )


def run_benchmark(
    benchmark: BenchmarkConfig,
    engine: Engine,
    sampling: SamplingConfig,
    *,
    seed: int,
    runtime: Runtime,
    logs: Path,
) -> Answers:
    """Run one benchmark and leave Inspect's own log in `logs`.

    Raises RuntimeError when Inspect could not run the task at all (its data set cannot be had, say).
    """
    from inspect_ai import eval as run_inspect  # pyright: ignore
    from inspect_ai.model import get_model  # pyright: ignore

    from nanbeige_core.evals import benchmark_tasks, inspect_engine

    del inspect_engine, benchmark_tasks  # importing them registers the model and the tasks
    arguments: dict[str, Any] = {
        name: list(v) if isinstance(v, tuple) else v for name, v in benchmark.arguments.items()
    }
    if benchmark.judge:
        arguments["judge_model"] = get_model(
            f"openai-api/judge/{benchmark.judge}", base_url=runtime.verifier_url, api_key="unused", memoize=False
        )
    if benchmark.sandbox:
        arguments["sandbox_url"] = runtime.sandbox_url
    model: Any = get_model("checkpoint/policy", memoize=False, engine=engine, sampling=sampling, seed=seed)
    logged: Any = run_inspect(
        benchmark.task,
        model=model,
        task_args=arguments,
        epochs=benchmark.samples,
        limit=benchmark.limit,
        log_dir=str(logs),
        log_format="json",
        display="none",
        fail_on_error=False,
        max_tokens=sampling.max_new_tokens,
    )[0]
    if logged.status != "success" or not logged.samples:
        raise RuntimeError(
            f"{benchmark.name} ({benchmark.task}) ended with status {logged.status}: "
            f"{getattr(logged.error, 'message', 'no sample was run')}. Its log lies in {logs}."
        )
    return Answers(benchmark.name, [to_answer(sample) for sample in logged.samples])


def to_answer(sample: Any) -> Answer:
    """Return one of Inspect's samples: a response that was cut off is wrong, a failed grading is unscored."""
    truncated = bool(sample.output.choices) and sample.output.stop_reason in TRUNCATED
    if truncated:
        return Answer(str(sample.id), 0.0, True)
    scores = list((sample.scores or {}).values())
    return Answer(str(sample.id), None if sample.error or not scores else to_value(scores[0].value), False)


def to_value(value: Any) -> float | None:
    """Return a score as a number: Inspect's C, P and I are 1, 0.5 and 0; text that is no number is unscored."""
    named = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
    if isinstance(value, str) and value in named:
        return named[value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def add_benchmarks(outcome: Outcome, measured: Sequence[tuple[str, Answers]]) -> Outcome:
    """Return an evaluation's outcome with the benchmarks' means and a table of their own."""
    if not measured:
        return outcome
    section = Section(
        title="Public benchmarks",
        text="Mean over responses and its standard error clustered by problem; a truncated response is wrong.",
        table=[answers.row(name) for name, answers in measured],
    )
    means = {f"{name}.{answers.benchmark}": answers.estimate.mean for name, answers in measured}
    return outcome.model_copy(update={"metrics": outcome.metrics | means, "sections": [*outcome.sections, section]})
