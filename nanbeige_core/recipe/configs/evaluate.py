"""Identity config of the evaluation stage."""

from typing import Literal

from pydantic import Field

from nanbeige_core.recipe.configs.base import IdentityConfig, SamplingConfig

Suite = Literal["math", "word_problems", "science", "code", "human_eval"]


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
