"""Compare checkpoints on problems none of them was trained on: one table, with standard errors.

What runs is in `suites` (the project's own) and `benchmarks` (public ones); what is said of it in `evaluate_report`.
A truncated answer is wrong. What one checkpoint scored on one suite is committed by itself, so that a rerun resumes.
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Outcome
from nanbeige_core.evals.benchmarks import Answer, Answers, add_benchmarks, require_benchmarks, run_benchmark
from nanbeige_core.evals.evaluate_report import Result, to_outcome, write_report
from nanbeige_core.evals.exact_match import Attempt, Scores
from nanbeige_core.evals.records import write_records
from nanbeige_core.evals.suites import measure_suite
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import barrier, gather_objects, rank, world_size
from nanbeige_core.recipe.configs.evaluate import EvaluateConfig
from nanbeige_core.rl.scoring import Scorer

REPORT = "report.json"
FIRST, LAST = "base", "final"


def checkpoints(inputs: dict[str, InputArtifact]) -> list[InputArtifact]:
    """Return the checkpoints in table order: base, any others as wired, final."""
    found = [item for item in inputs.values() if item.kind == Kind.CHECKPOINT]
    middle = [item for item in found if item.name not in (FIRST, LAST)]
    return [inputs[FIRST], *middle, inputs[LAST]]


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
        write_report(job.work / REPORT, rows, results)
        records = {f"{r.checkpoint}.{r.suite}": r.scores.by_problem() for r in results}
        records |= {f"{name}.{answers.benchmark}": answers.by_problem() for name, answers in measured}
        write_records(job.work, records)
    barrier()
    return add_benchmarks(to_outcome(config.suites, results, [subject.name for subject in subjects]), measured)


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
        _commit(committed, measure_suite(job, policy.get(), tokenizer, scorer, suite))
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


def _commit(path: Path, scores: Scores) -> None:
    if rank() == 0:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"values": scores.values, "ids": scores.prompt_ids, "attempts": scores.attempts}))
        os.replace(partial, path)
    barrier()


def _read(path: Path) -> Scores:
    content = json.loads(path.read_text())
    return Scores(content["ids"], content["values"], [Attempt(*item) for item in content["attempts"]])
