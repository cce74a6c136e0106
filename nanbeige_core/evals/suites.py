"""The project's own suites: which problems each holds, and one checkpoint's attempts at them.

Suites are the domains of the PromptSet's evaluation split, word problems apart, and HumanEval.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job
from nanbeige_core.evals.exact_match import Attempt, Scores, collect, encode_fitting, measure
from nanbeige_core.evals.human_eval import check_solutions, prompt_row, read_tasks, solution_source
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import gather_objects, rank, world_size
from nanbeige_core.recipe.configs.evaluate import EvaluateConfig
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.verify.sandbox import open_sandbox

HUMAN_EVAL, WORD_PROBLEMS = "human_eval", "word_problems"
SUITE_DOMAIN = "code"
"""Domain of HumanEval's rows."""


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


def measure_suite(job: Job, engine: Engine, tokenizer: PreTrainedTokenizerFast, scorer: Scorer, suite: str) -> Scores:
    """Return a checkpoint's attempts at a suite; every rank takes part and gets all of them."""
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
