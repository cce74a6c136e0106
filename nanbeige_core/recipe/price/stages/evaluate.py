"""Cost of the evaluation."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.evaluate import EvaluateConfig
from nanbeige_core.recipe.configs.problems import ProblemsConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.problem_counts import mean_prompt_tokens
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.stages.sft import draw, no_room
from nanbeige_core.recipe.price.work import Cost, Made, Processing, Sampling, Work

HUMAN_EVAL_PROBLEMS = 164
HUMAN_EVAL_PROMPT = Range(120, 200, 450)
"""Tokens of a HumanEval prompt. ours: a small vocabulary needs more"""

BENCHMARK_PROMPT = Range(100, 400, 4000)
"""Tokens of a public benchmark's prompt. ours: tools and long conversations need thousands"""


def suite_problems(config: EvaluateConfig, pool: ProblemsConfig) -> dict[str, int]:
    """Return the problems of each suite that is measured."""
    words = round(pool.eval.math * pool.word_problem_share)
    sizes = {
        "math": pool.eval.math - words,
        "word_problems": words,
        "science": pool.eval.science,
        "code": pool.eval.code,
    }
    chosen = {name: sizes[name] for name in config.suites if name in sizes}
    if config.limit is not None:
        chosen = {name: min(count, config.limit) for name, count in chosen.items()}
    if "human_eval" in config.suites:
        chosen["human_eval"] = HUMAN_EVAL_PROBLEMS
    return chosen


def evaluate(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Every suite for every checkpoint, and the benchmarks for those that take them."""
    config = cast(EvaluateConfig, stage.config)
    pool = made["problems"].problems
    assert pool is not None
    suites = suite_problems(config, pool)
    human_eval = suites.get("human_eval", 0)
    others = sum(suites.values()) - human_eval
    prompt = mean_prompt_tokens(pool, {"eval"}, assume)
    work: list[Work] = []
    notes: list[str] = []
    responses = 0
    for name, one in made.items():
        if one.decoder is None:
            continue
        for suite, count, samples, length in (
            ("problems", others, config.samples, prompt),
            ("HumanEval", human_eval, config.human_eval_samples, HUMAN_EVAL_PROMPT),
        ):
            work.append(
                draw(
                    f"{name}: {suite}",
                    stage,
                    one.decoder,
                    config.sampling,
                    assume,
                    prompts=Range.exactly(count),
                    samples=samples,
                    prompt_tokens=length,
                )  # fmt: skip
            )
            responses += count * samples
        for benchmark in config.benchmarks if name in config.benchmarked else ():
            count = min(benchmark.problems, benchmark.limit or benchmark.problems)
            work.append(
                draw(
                    f"{name}: {benchmark.name}",
                    stage,
                    one.decoder,
                    config.sampling,
                    assume,
                    prompts=Range.exactly(count),
                    samples=benchmark.samples,
                    prompt_tokens=BENCHMARK_PROMPT,
                )
            )
            responses += count * benchmark.samples
        notes.append(no_room(stage, config.sampling, one.decoder))
    checkpoints = sum(one.decoder is not None for one in made.values())
    drawn = Range.total(each.tokens for each in work if isinstance(each, Sampling))
    work.append(Processing("verify", Range.exactly(responses), assume.verdict_seconds.range))
    return Cost(
        made=Made(),
        documents=Range.exactly(responses),
        tokens=drawn,
        work=tuple(work),
        counts={
            "checkpoints": Range.exactly(checkpoints),
            "problems": Range.exactly(sum(suites.values())),
            "responses": Range.exactly(responses),
        },
        storage_bytes=drawn * assume.characters_per_token.range * Range(0.5, 1, 2) + responses * 150,
    ).noting(*dict.fromkeys(notes))
