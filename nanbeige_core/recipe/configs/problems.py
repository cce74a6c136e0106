"""Identity configs of the stages `problems` (prompt sets with verifiers) and `sft_data` (cold-start samples)."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.fingerprint import added_field


class DomainCounts(IdentityConfig):
    """How many problems of each domain one split holds."""

    math: int = Field(0, ge=0, description="Arithmetic and word problems. ours")
    science: int = Field(0, ge=0, description="Formula problems with integer answers. ours")
    code: int = Field(0, ge=0, description="Functions and scripts with tests. ours")
    general: int = Field(0, ge=0, description="Questions and writing requests. ours")
    agent: int = Field(0, ge=0, description="Turns that call a tool. ours")


class ProblemsConfig(IdentityConfig):
    """What the `problems` stage generates; every split is disjoint from every other one."""

    seed: int = Field(0, ge=0, description="Seed of every generator. ours")
    chinese_share: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of generated prompts in Chinese; at 0 or 1 the pools are of one language. ours",
    )
    word_problem_share: float = Field(0.1, ge=0, le=1, description="Share of math that is word problems. ours")
    word_problem_characters: int = Field(
        4000, ge=100, description="Longest prompt plus reasoning of a word problem, characters. ours"
    )
    hard_share: float = Field(0.5, ge=0, le=1, description="Share of arithmetic beyond sums of two small numbers. ours")
    science_largest_factor: int = Field(
        default=400, ge=3, description="Largest unknown of a science formula, below the formula's own bound. ours"
    )
    tests_per_program: int = Field(6, ge=2, description="Tests of one code problem, public and private. ours")
    public_tests: int = Field(2, ge=1, description="Tests of one code problem shown to training. ours")
    fuel_per_test: int = Field(
        400_000_000, ge=1_000_000, description="WebAssembly instruction budget of one test. ours"
    )
    pretrain: DomainCounts = Field(
        DomainCounts(math=60_000, science=20_000, code=20_000, general=600, agent=10_000),
        description="Worked examples that join the decay mixture. ours",
    )
    sft: DomainCounts = Field(
        DomainCounts(math=100_000, science=60_000, code=40_000, general=0, agent=0),
        description="Pool of the cold start. ours",
    )
    overall: DomainCounts = Field(
        DomainCounts(math=30_000, science=10_000, code=10_000, general=600, agent=20_000),
        description="Pool of the overall SFT. ours",
    )
    rl: DomainCounts = Field(
        DomainCounts(math=20_000, science=5_000, code=20_000, general=400, agent=0),
        description="Pool of the three RL stages. ours",
    )
    heldout: DomainCounts = Field(
        DomainCounts(math=500, science=300, code=300, general=100, agent=200),
        description="Measures gains between stages. ours",
    )
    eval: DomainCounts = Field(
        DomainCounts(math=500, science=300, code=300, general=100, agent=200),
        description="Final evaluation only. ours",
    )

    stdin_share: float = added_field(
        0.0,
        ge=0,
        le=1,
        description="Share of programs asked as scripts that read and print; the rest are functions. ours",
    )
    pool_language: Literal["both", "en", "zh"] = added_field(
        "both", description="Language of programs and dialogues; left out, chinese_share 0 sets en and 1 sets zh. ours"
    )

    @model_validator(mode="before")
    @classmethod
    def derive_pool_language(cls, values: Any) -> Any:
        """Make a share of none or all hold for pools too; as a value of its own, so that the fingerprint knows."""
        alone = {0.0: "en", 1.0: "zh"}
        if isinstance(values, Mapping) and values.get("chinese_share") in alone:
            return {"pool_language": alone[values["chinese_share"]], **values}
        return values

    @model_validator(mode="after")
    def validate_tests(self) -> Self:
        """Refuse a split of tests that leaves nothing private."""
        if self.public_tests >= self.tests_per_program:
            raise ValueError(
                f"public_tests={self.public_tests} of tests_per_program={self.tests_per_program} leaves no "
                "private test, so a program could pass by memorising. Lower public_tests."
            )
        return self


class SftDataConfig(IdentityConfig):
    """Cold-start samples (report, cold-start SFT)."""

    seed: int = Field(0, ge=0, description="Order of the samples. ours")
    samples: int = Field(30_000_000, ge=1, description="Samples wanted; fewer when the pool is smaller. paper")
    math_share: float = Field(0.5, ge=0, le=1, description="Share of samples. paper")
    science_share: float = Field(0.3, ge=0, le=1, description="Share of samples. paper")
    code_share: float = Field(0.2, ge=0, le=1, description="Share of samples. paper")
    validation_samples: int = Field(300, ge=1, description="Held-out samples, from the heldout split. ours")

    @model_validator(mode="after")
    def validate_shares(self) -> Self:
        """Refuse shares that do not sum to one."""
        total = self.math_share + self.science_share + self.code_share
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"math_share + science_share + code_share is {total}, expected 1: every sample belongs to one "
                "of the three domains. Correct the shares in pipelines.yaml."
            )
        return self

    def shares(self) -> dict[str, float]:
        """Return the sample share of each domain."""
        return {"math": self.math_share, "science": self.science_share, "code": self.code_share}
