"""Identity config of the evaluation stage."""

from typing import Literal

from pydantic import Field

from nanbeige_core.recipe.configs.base import IdentityConfig, SamplingConfig
from nanbeige_core.recipe.fingerprint import added_field

Suite = Literal["math", "word_problems", "science", "code", "human_eval"]


class BenchmarkConfig(IdentityConfig):
    """One public benchmark, run by Inspect."""

    name: str = Field(min_length=1, description="As the report calls it. paper")
    task: str = Field(min_length=1, description="Inspect's name of the task, or a file with one. ours")
    samples: int = Field(default=3, ge=1, description="Responses per problem: avg@k. paper: 8 for AIME, else 3")
    problems: int = Field(ge=1, description="How many problems it has, for the price. ours")
    judge: str = Field(default="", description="Model that grades, at runtime.verifier_url; empty = none. ours")
    sandbox: bool = Field(default=False, description="Programs are judged at runtime.sandbox_url. ours")
    arguments: dict[str, str | int | tuple[str, ...]] = Field(default={}, description="Given to the task. ours")
    limit: int | None = Field(default=None, ge=1, description="At most this many problems; none = all. ours")


class EvaluateConfig(IdentityConfig):
    """Compare checkpoints on held-out problems (report section 4: T 0.6, top-p 0.95, AIME avg@8, most avg@3)."""

    suites: tuple[Suite, ...] = Field(
        default=("math", "word_problems", "science", "code", "human_eval"),
        min_length=1,
        description="What is measured. ours",
    )
    samples: int = Field(default=8, ge=1, description="Responses per problem of the exact-match suites. paper: 8 or 3")
    human_eval_samples: int = Field(default=1, ge=1, description="Responses per human-eval problem (pass@1). ours")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(temperature=0.6, top_p=0.95, max_new_tokens=65536), description="paper: 64K tokens"
    )
    limit: int | None = Field(default=None, ge=1, description="At most this many problems per suite; none = all. ours")
    seed: int = Field(default=1, ge=0, description="Of the sampler. ours")
    benchmarks: tuple[BenchmarkConfig, ...] = added_field(
        (), description="Public benchmarks beside the suites; they need the extra `benchmarks`. paper: nine"
    )
    benchmarked: tuple[str, ...] = added_field(
        ("final",), min_length=1, description="Inputs whose checkpoints take the benchmarks. paper: the final one"
    )
