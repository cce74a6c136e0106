"""Identity configs of cold-start SFT, overall SFT, and the refinement that builds overall SFT's data."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.fingerprint import added_field


class HeldoutConfig(IdentityConfig):
    """How a stage measures itself on problems it never trained on."""

    problems: int = Field(500, ge=0, description="Held-out problems, spread over the domains; 0 skips. ours")
    split: Literal["heldout", "eval"] = Field("heldout", description="Split the problems come from. ours")
    samples: int = Field(1, ge=1, description="Responses per problem. ours")
    sampling: SamplingConfig = Field(
        SamplingConfig(temperature=0.6, top_p=0.95, top_k=0, max_new_tokens=16384),
        description="How they are drawn; the report evaluates at 0.6 and 0.95. paper",
    )
    seed: int = Field(0, ge=0, description="Choice of problems and random numbers of the samples. ours")


class SftConfig(IdentityConfig):
    """Supervised fine-tuning, for the cold start and for overall SFT (report sections on SFT)."""

    sequence_length: int = Field(32768, ge=16, description="Window in tokens. paper: 32K cold, 64K overall")
    epochs: int = Field(2, ge=1, description="Passes over the samples. ours")
    global_batch_size: int = Field(128, ge=1, description="Packed sequences per optimiser step. ours")
    learning_rate: float = Field(5e-5, gt=0, description="Peak. ours")
    final_learning_rate: float = Field(5e-6, ge=0, description="At the last step. ours")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="Share of the steps. ours")
    optimizer: OptimizerConfig = Field(OptimizerConfig.model_validate({}), description="AdamW. ours")
    overflow: Literal["drop", "truncate", "refuse"] = Field(
        "drop", description="What happens to a sample longer than the window; counted. ours"
    )
    seed: int = Field(0, ge=0, description="Order of the samples. ours")
    heldout: HeldoutConfig = Field(HeldoutConfig.model_validate({}), description="Measurement before and after. ours")
    shown_samples: int = Field(3, ge=0, description="Samples whose supervised text is kept in the report. ours")


class RefinementMixture(IdentityConfig):
    """Sample shares of overall SFT (report, overall SFT)."""

    math: float = Field(0.4, ge=0, le=1, description="Mathematics and subject reasoning. paper")
    general: float = Field(0.3, ge=0, le=1, description="General question answering and writing. paper")
    agent: float = Field(0.2, ge=0, le=1, description="Tools and planning. paper")
    code: float = Field(0.1, ge=0, le=1, description="Programs. paper")

    @model_validator(mode="after")
    def validate_total(self) -> Self:
        """Refuse shares that do not sum to one."""
        total = self.math + self.general + self.agent + self.code
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"math + general + agent + code is {total}, expected 1: the shares divide one data set. "
                "Correct the mixture in pipelines.yaml."
            )
        return self

    def shares(self) -> dict[str, float]:
        """Return each group's share of the samples."""
        return {"math": self.math, "general": self.general, "agent": self.agent, "code": self.code}


class RefinementConfig(IdentityConfig):
    """Deliberative refinement and CoT reconstruction (report, overall SFT)."""

    prompts: int = Field(1_000_000, ge=1, description="Instructions refined, by the mixture's shares. ours")
    mixture: RefinementMixture = Field(RefinementMixture.model_validate({}), description="Sample shares. paper")
    max_repeats: int = Field(
        1, ge=1, description="How often a sample of a scarce group may appear in the mixture. ours"
    )
    teacher_candidates: int = Field(2, ge=1, description="Drafts of the teacher per round. ours")
    student_candidates: int = Field(1, ge=0, description="Drafts of the current model in round one. ours")
    max_rounds: int = Field(3, ge=1, description="Rounds of judging and revising. ours")
    accept_score: float = Field(8.0, ge=0, le=10, description="Median score that ends the loop. ours")
    keep_score: float = Field(
        6.0, ge=0, le=10, description="Least median score of a sample that enters the data set. ours"
    )
    minimum_gain: float = Field(
        0.0, ge=0, description="A round that improves the best score by no more ends the loop. ours"
    )
    reviser: Literal["resample", "conditioned"] = Field(
        "conditioned",
        description="conditioned: the teacher reads draft and critique; resample: the critique only steers "
        "the temperature, for models too small to read one. ours",
    )
    reconstructions: int = Field(4, ge=1, description="Chains of thought drawn per refined answer. ours")
    chain_prompt: Literal["prompt", "prompt_and_solution"] = Field(
        "prompt_and_solution",
        description="What the chain-completion model reads; `prompt` suits models too small for more. paper",
    )
    reference_candidates: bool = Field(True, description="General and agent references may enter as candidates. ours")
    longest_words: int = Field(8000, ge=1, description="Length limit of the checklist, in words. ours")
    sampling: SamplingConfig = Field(
        SamplingConfig(temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=16384),
        description="How candidates are drawn. ours",
    )
    checklist: Literal["rules", "generated"] = added_field(
        "rules",
        description="generated: the teacher also writes questions for each instruction, which `judges` answer; "
        "rules alone suit models too small to write one. paper: a dynamic checklist",
    )
    checklist_questions: int = added_field(
        4, ge=1, le=8, description="Questions asked for; at most 8 items stand. ours"
    )
    judges: tuple[str, ...] = added_field(
        (),
        description="Models that judge beside verifier, rules and likelihood: teacher, student, or the name of a model "
        "served at runtime.endpoint_url. paper: a multi-model evaluator",
    )
    critic: str = added_field(
        "",
        description="Model that says what is wrong with the best draft, named like a judge; empty = rules only. ours",
    )
    served_teacher: str = added_field(
        "",
        description="Model served at runtime.endpoint_url that drafts, revises and completes chains instead of the "
        "teacher, whose likelihood still judges. ours",
    )
    teacher_format: Literal["project", "plain"] = added_field(
        "project",
        description="plain: a teacher that never learnt the think block; it is shown what a verifier needs, and its "
        "text is an answer whose reasoning is reconstructed. ours",
    )
    chunk_prompts: int = Field(512, ge=1, description="Instructions per committed chunk. ours")
    validation_fraction: float = Field(0.05, gt=0, lt=1, description="Share set aside, by prompt. ours")
    seed: int = Field(0, ge=0, description="Choice of prompts and random numbers of the samples. ours")

    def served_models(self) -> tuple[str, ...]:
        """Return the models asked over runtime.endpoint_url."""
        named = dict.fromkeys(name for name in (self.served_teacher, self.critic, *self.judges) if name)
        return tuple(name for name in named if name not in ("teacher", "student"))
