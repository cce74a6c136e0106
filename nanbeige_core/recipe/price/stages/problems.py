"""Costs of `problems` and `sft_data`."""

from collections.abc import Mapping
from typing import cast

from nanbeige_core.recipe.configs.problems import ProblemsConfig, SftDataConfig
from nanbeige_core.recipe.load import Stage
from nanbeige_core.recipe.price.problem_counts import SPLITS, count_problems, mean_of_domains, split_counts
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Assumptions
from nanbeige_core.recipe.price.work import Cost, Made, Processing

BYTES_PER_PROBLEM = Range(50, 70, 300)
"""One row of prompts.parquet or samples.parquet. ours: laptop run"""


def problems(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Every split is filled completely or the stage fails, so the rows are exact."""
    del made
    config = cast(ProblemsConfig, stage.config)
    rows = Range.exactly(count_problems(config, SPLITS))
    return Cost(
        made=Made(rows=rows, problems=config),
        documents=rows,
        work=(Processing("generate", rows, assume.problem_seconds.range),),
        counts={"rows": rows},
        storage_bytes=rows * BYTES_PER_PROBLEM,
    )


def sft_data(stage: Stage, made: Mapping[str, Made], assume: Assumptions) -> Cost:
    """Samples in the configured shares, as many as the scarcest domain of the pool allows."""
    config = cast(SftDataConfig, stage.config)
    pool = made["problems"].problems
    assert pool is not None
    train = _by_share(split_counts(pool, {"sft"}), config.shares(), config.samples)
    held_out = _by_share(split_counts(pool, {"heldout"}), config.shares(), config.validation_samples)
    samples = sum(train.values())
    read = count_problems(pool, {"sft", "heldout"}, config.shares())
    short = (
        f"{config.samples:,} samples are wanted, the pool of problems.sft gives {samples:,} in the configured shares"
        if samples < 0.99 * config.samples
        else ""
    )
    return Cost(
        made=Made(rows=Range.exactly(samples), row_tokens=mean_of_domains(train, assume), problems=pool),
        documents=Range.exactly(samples),
        work=(Processing("check answers", Range.exactly(read), assume.verdict_seconds.range),),
        counts={
            "read": Range.exactly(read),
            "kept": Range.exactly(samples),
            "validation": Range.exactly(sum(held_out.values())),
            **{f"samples_{domain}": Range.exactly(count) for domain, count in train.items()},
        },
        storage_bytes=(samples + sum(held_out.values())) * BYTES_PER_PROBLEM,
    ).noting(short)


def _by_share(pool: Mapping[str, int], shares: Mapping[str, float], wanted: int) -> dict[str, int]:
    limits = [pool[domain] / share for domain, share in shares.items() if share > 0]
    total = min([float(wanted), *limits])
    return {domain: min(int(total * share + 1e-9), pool[domain]) for domain, share in shares.items()}
