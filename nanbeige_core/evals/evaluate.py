"""Compare checkpoints on problems none of them was trained on: one table, with standard errors.

Suites are the domains of the PromptSet's evaluation split, word problems apart, and HumanEval; public benchmarks run
beside them through `benchmarks`. A truncated answer is
wrong. Standard errors are clustered by problem (arXiv 2411.00640); the gain is a paired difference over problems.
"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import Gain, InputArtifact, Job, Outcome, Plot, Section
from nanbeige_core.evals.benchmarks import Answer, Answers, add_benchmarks, require_benchmarks, run_benchmark
from nanbeige_core.evals.exact_match import Attempt, Scores, collect, encode_fitting, measure
from nanbeige_core.evals.human_eval import check_solutions, prompt_row, read_tasks, solution_source
from nanbeige_core.evals.records import write_records
from nanbeige_core.evals.statistics import Estimate, mean_with_standard_error, paired_difference
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import barrier, gather_objects, rank, world_size
from nanbeige_core.recipe.configs.evaluate import EvaluateConfig
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.verify.sandbox import open_sandbox

REPORT = "report.json"
FIRST, LAST = "base", "final"
HUMAN_EVAL, WORD_PROBLEMS = "human_eval", "word_problems"
SUITE_DOMAIN = "code"
"""Domain of HumanEval's rows."""


class Result(NamedTuple):
    """What one checkpoint scored on one suite."""

    checkpoint: str
    suite: str
    scores: Scores

    @property
    def estimate(self) -> Estimate:
        """Return mean and standard error over scored responses, clustered by problem."""
        scored = [a for a in self.scores.attempts if a.outcome != "unscored"]
        if not scored:
            return Estimate(0.0, float("inf"), 0, 0)
        return mean_with_standard_error([float(a.outcome == "correct") for a in scored], [a.prompt_id for a in scored])

    def row(self) -> dict[str, Any]:
        """Return the result as a table row."""
        estimate = self.estimate
        attempts = self.scores.attempts
        return {
            "checkpoint": self.checkpoint,
            "suite": self.suite,
            "mean": round(estimate.mean, 4),
            "standard_error": round(estimate.standard_error, 4),
            "problems": len(self.scores.values),
            "responses": len(attempts),
            "truncated": self.scores.truncated,
            "unscored": self.scores.count("unscored"),
            "too_long": sum(a.tokens == 0 for a in attempts),
        }


def checkpoints(inputs: dict[str, InputArtifact]) -> list[InputArtifact]:
    """Return the checkpoints in table order: base, any others as wired, final."""
    found = [item for item in inputs.values() if item.kind == Kind.CHECKPOINT]
    middle = [item for item in found if item.name not in (FIRST, LAST)]
    return [inputs[FIRST], *middle, inputs[LAST]]


def suite_rows(problems: Path, suite: str, limit: int | None) -> list[PromptRow]:
    """Return the evaluation split's rows of a suite; word problems are the part of mathematics told as stories."""
    domain = "math" if suite in ("math", WORD_PROBLEMS) else suite
    rows = load_prompts(problems, splits={"eval"}, domains={domain})
    if domain == "math":
        rows = [row for row in rows if ("gsm" in row.source.lower()) == (suite == WORD_PROBLEMS)]
    return _spread(rows, limit)


def _spread(rows: list[PromptRow], limit: int | None) -> list[PromptRow]:
    """Return at most `limit` rows, evenly spread over all."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[index * len(rows) // limit] for index in range(limit)]


def run(job: Job) -> Outcome:
    """Measure every suite for every checkpoint and write report.json."""
    config: EvaluateConfig = job.config
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    subjects = checkpoints(job.inputs)
    require_benchmarks(config.benchmarks, job.runtime)
    results: list[Result] = []
    measured: list[tuple[str, Answers]] = []
    with ExitStack() as opened:
        scorer = opened.enter_context(
            Scorer(cache=job.cache, workers=job.runtime.threads, sandbox_url=job.runtime.sandbox_url)
        )
        for place, subject in enumerate(subjects):
            with ExitStack() as one:
                # opened when first needed: a rerun finds most of it committed
                policy = LazyEngine(job, subject, one)
                results += [_suite(job, subject, policy, tokenizer, scorer, suite) for suite in config.suites]
                if subject.name in config.benchmarked:
                    measured += [(subject.name, answers) for answers in _benchmarks(job, subject, policy)]
            job.progress((place + 1) / len(subjects), f"{subject.name} measured")
    if rank() == 0:
        rows = [result.row() for result in results] + [answers.row(name) for name, answers in measured]
        _write_report(job.work / REPORT, rows, results)
        records = {f"{r.checkpoint}.{r.suite}": r.scores.by_problem() for r in results}
        records |= {f"{name}.{answers.benchmark}": answers.by_problem() for name, answers in measured}
        write_records(job.work, records)
    barrier()
    return add_benchmarks(_outcome(config, results, [subject.name for subject in subjects]), measured)


class LazyEngine:
    """One checkpoint's engine, opened when first asked for and closed with `opened`."""

    def __init__(self, job: Job, subject: InputArtifact, opened: ExitStack) -> None:
        self._job, self._subject, self._opened = job, subject, opened
        self._engine: Engine | None = None

    def get(self) -> Engine:
        """Return the engine."""
        if self._engine is None:
            job = self._job
            self._engine = open_engine(self._subject.path, job.inputs["tokenizer"].path, job.runtime)
            self._opened.callback(self._engine.close)
        return self._engine


def _suite(
    job: Job,
    subject: InputArtifact,
    policy: LazyEngine,
    tokenizer: PreTrainedTokenizerFast,
    scorer: Scorer,
    suite: str,
) -> Result:
    committed = job.scratch / f"{subject.name}-{suite}.json"
    # one rank's look decides, or ranks would disagree about a collective
    if not gather_objects(committed.exists())[0]:
        _commit(committed, _measure(job, policy.get(), tokenizer, scorer, suite))
    return Result(subject.name, suite, _read(committed))


def _benchmarks(job: Job, subject: InputArtifact, policy: LazyEngine) -> list[Answers]:
    """Run the benchmarks, dealt out over the ranks; each is committed by itself."""
    config: EvaluateConfig = job.config
    paths = [job.scratch / f"{subject.name}-{benchmark.name}.benchmark.json" for benchmark in config.benchmarks]
    for benchmark, path in list(zip(config.benchmarks, paths, strict=True))[rank() :: world_size()]:
        if not path.exists():
            logs = job.scratch / "inspect" / subject.name
            answers = run_benchmark(
                benchmark, policy.get(), config.sampling, seed=config.seed, runtime=job.runtime, logs=logs
            )
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(answers.answers))
            os.replace(partial, path)
    barrier()
    contents = [json.loads(path.read_text()) for path in paths]
    return [
        Answers(benchmark.name, [Answer(*item) for item in content])
        for benchmark, content in zip(config.benchmarks, contents, strict=True)
    ]


def _measure(job: Job, engine: Engine, tokenizer: PreTrainedTokenizerFast, scorer: Scorer, suite: str) -> Scores:
    config: EvaluateConfig = job.config
    if suite == HUMAN_EVAL:
        return _measure_human_eval(job, engine, tokenizer)
    rows = suite_rows(job.inputs["problems"].path, suite, config.limit)
    return measure(engine, tokenizer, rows, config.sampling, scorer, n=config.samples, seed=config.seed)


def _measure_human_eval(job: Job, engine: Engine, tokenizer: PreTrainedTokenizerFast) -> Scores:
    """Return pass@1 of HumanEval; problems are split over ranks."""
    config: EvaluateConfig = job.config
    tasks = {task.task_id: task for task in read_tasks()}
    rows = _spread([prompt_row(task) for task in tasks.values()], config.limit)
    prompts = encode_fitting(
        tokenizer, rows[rank() :: world_size()], window=engine.window, max_new_tokens=config.sampling.max_new_tokens
    )
    count = config.human_eval_samples
    attempts = [
        Attempt(row.id, SUITE_DOMAIN, "", "wrong", "the prompt does not fit the window", False, 0)
        for row in prompts.too_long
        for _ in range(count)
    ]
    if prompts.ids:
        drawn = engine.generate(prompts.ids, config.sampling, n=count, seed=config.seed + rank())
        flat = [(row, item) for row, group in zip(prompts.rows, drawn, strict=True) for item in group]
        texts = [engine.text(item) for _, item in flat]
        sources = [solution_source(tasks[row.id], text) for (row, _), text in zip(flat, texts, strict=True)]
        runtime = job.runtime
        with open_sandbox(workers=runtime.threads, cache=job.cache, url=runtime.sandbox_url) as sandbox:
            verdicts = check_solutions(sandbox, [tasks[row.id] for row, _ in flat], sources)
        for (row, item), text, (outcome, reason) in zip(flat, texts, verdicts, strict=True):
            truncated = item.finish_reason == "length"
            attempts.append(
                Attempt(
                    row.id,
                    SUITE_DOMAIN,
                    text,
                    "wrong" if truncated else outcome,
                    "truncated" if truncated else reason,
                    truncated,
                    len(item.token_ids),
                )
            )
    return collect(rows, [attempt for part in gather_objects(attempts) for attempt in part])


def _commit(path: Path, scores: Scores) -> None:
    if rank() == 0:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"values": scores.values, "ids": scores.prompt_ids, "attempts": scores.attempts}))
        os.replace(partial, path)
    barrier()


def _read(path: Path) -> Scores:
    content = json.loads(path.read_text())
    return Scores(content["ids"], content["values"], [Attempt(*item) for item in content["attempts"]])


def _write_report(path: Path, rows: Sequence[dict[str, Any]], results: Sequence[Result]) -> None:
    """Write the table and every response, so that any number can be looked into."""
    content = {
        "results": list(rows),
        "attempts": [
            {"checkpoint": result.checkpoint, "suite": result.suite, **attempt._asdict()}
            for result in results
            for attempt in result.scores.attempts
        ],
    }
    # infinity (one problem alone has no error) is not JSON
    text = json.dumps(content, ensure_ascii=False).replace("Infinity", "null")
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)


def _outcome(config: EvaluateConfig, results: Sequence[Result], names: Sequence[str]) -> Outcome:
    by_key = {(result.checkpoint, result.suite): result for result in results}
    suites = [suite for suite in config.suites if by_key[names[0], suite].scores.values]
    first = [value for suite in suites for value in by_key[names[0], suite].scores.values]
    last = [value for suite in suites for value in by_key[names[-1], suite].scores.values]
    interval = paired_difference(first, last)
    mean = {name: _macro(by_key, name, suites) for name in names}
    return Outcome(
        summary=(
            f"{len(names)} checkpoints on {len(first)} problems in {len(suites)} suites: mean over problems "
            f"{sum(first) / len(first):.3f} for {names[0]}, {sum(last) / len(last):.3f} for {names[-1]}."
        ),
        counts={
            "checkpoints": len(names),
            "problems": len(first),
            "responses": sum(len(result.scores.attempts) for result in results),
            "truncated": sum(result.scores.truncated for result in results),
            "unscored": sum(result.scores.count("unscored") for result in results),
        },
        metrics={
            **{f"{result.checkpoint}.{result.suite}": result.estimate.mean for result in results},
            **{f"{name}.mean_of_suites": value for name, value in mean.items()},
        },
        gain=Gain(
            metric="share solved (mean over problems of all suites)",
            before=sum(first) / len(first),
            after=sum(last) / len(last),
            n=len(first),
            low=interval.low,
            high=interval.high,
        ),
        sections=_sections(by_key, names, suites, results),
    )


def _macro(by_key: dict[tuple[str, str], Result], name: str, suites: Sequence[str]) -> float:
    return sum(by_key[name, suite].estimate.mean for suite in suites) / len(suites)


def _sections(
    by_key: dict[tuple[str, str], Result], names: Sequence[str], suites: Sequence[str], results: Sequence[Result]
) -> list[Section]:
    table: list[dict[str, Any]] = []
    for suite in suites:
        cells = {name: by_key[name, suite].estimate for name in names}
        scores = {name: f"{cell.mean:.3f} ± {cell.standard_error:.3f}" for name, cell in cells.items()}
        table.append({"suite": suite, "problems": len(by_key[names[0], suite].scores.values), **scores})
    plot = Plot(
        kind="bar",
        x=list(suites),
        series={name: [by_key[name, suite].estimate.mean for suite in suites] for name in names},
        x_label="suite",
        y_label="share solved",
    )
    examples = [
        {"suite": suite, "problem": attempt.prompt_id, "response": attempt.text[:200], "outcome": attempt.outcome,
         "reason": attempt.reason}
        for suite in suites
        for attempt in by_key[names[-1], suite].scores.attempts[:3]
    ]  # fmt: skip
    return [
        Section(
            title="Scores", text="Mean over responses ± standard error clustered by problem.", table=table, plot=plot
        ),
        Section(title="Counts", table=[result.row() for result in results]),
        Section(title=f"Responses of {names[-1]}", table=examples),
    ]
