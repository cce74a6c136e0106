"""Identity configs of dual-level preference distillation and of the pairs it trains on."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.configs.sft import HeldoutConfig
from nanbeige_core.recipe.fingerprint import added_field


class PreferencePairsConfig(IdentityConfig):
    """Positives of the teacher, negatives of the student (report, preference distillation)."""

    prompts: int = Field(200_000, ge=1, description="Prompts sampled, evenly over the domains. ours")
    domains: tuple[str, ...] = Field(("math", "science", "code"), description="Verifiable domains. ours")
    splits: tuple[str, ...] = Field(("overall", "rl"), description="Splits the prompts come from. ours")
    teacher_samples: int = Field(4, ge=1, description="Responses of the teacher per prompt. ours")
    student_samples: int = Field(4, ge=1, description="Responses of the student per prompt. ours")
    pairs_per_prompt: int = Field(1, ge=1, description="Most pairs kept of one prompt. ours")
    teacher_sampling: SamplingConfig = Field(
        SamplingConfig(temperature=0.6, top_p=0.95, top_k=0, max_new_tokens=16384),
        description="How positives are drawn. ours",
    )
    student_sampling: SamplingConfig = Field(
        SamplingConfig(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=16384),
        description="How negatives are drawn. ours",
    )
    chunk_prompts: int = Field(512, ge=1, description="Prompts per committed chunk. ours")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="Share set aside, by prompt. ours")
    seed: int = Field(0, ge=0, description="Choice of prompts and random numbers of the samples. ours")
    judge: str = added_field(
        "",
        description="Model served at runtime.endpoint_url that compares answers of the domain general; empty = the "
        "input reward_model, if there is one. ours",
    )
    minimum_win: float = added_field(
        0.8,
        gt=0.5,
        le=1,
        description="Least probability, in each order, with which the judge finds the teacher's answer better. ours",
    )

    def served_models(self) -> tuple[str, ...]:
        """Return the models asked over runtime.endpoint_url."""
        return (self.judge,) if self.judge else ()


class DpdConfig(IdentityConfig):
    """Dual-level preference distillation: L = L_dpo + L_pos + L_neg (report, preference distillation)."""

    sequence_length: int = Field(65536, ge=16, description="Window in tokens; holds whole pairs. ours")
    epochs: int = Field(1, ge=1, description="Passes over the pairs. ours")
    global_batch_size: int = Field(64, ge=1, description="Packed sequences per optimiser step. ours")
    learning_rate: float = Field(5e-6, gt=0, description="Peak. ours")
    final_learning_rate: float = Field(5e-7, ge=0, description="At the last step. ours")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the steps. ours")
    optimizer: OptimizerConfig = Field(OptimizerConfig.model_validate({}), description="AdamW. ours")
    dpo_weight: float = Field(1.0, ge=0, description="Weight of L_dpo. paper: the plain sum")
    positive_weight: float = Field(1.0, ge=0, description="Weight of L_pos. paper: the plain sum")
    negative_weight: float = Field(1.0, ge=0, description="Weight of L_neg. paper: the plain sum")
    beta: float = Field(0.1, ge=0, description="Sharpness of the preference margin. ours")
    normalise_length: bool = Field(
        False, description="Divide each side's log-probability by its tokens; needs a beta 10-100 x. ours"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of pairs taken as swapped. ours")
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = Field(
        "forward_kl", description="Token-level divergence; forward is KL(teacher || student). ours"
    )
    mixture: float = Field(0.5, gt=0, lt=1, description="Interpolation of the jsd. ours")
    temperature: float = Field(1.0, gt=0, description="Of both distributions in the token level. ours")
    teacher_top_k: int = Field(
        0, ge=0, description="0: exact teacher logits; else its k best tokens and a tail bucket. ours"
    )
    cross_tokenizer: Literal["refuse", "uld", "gold"] = added_field(
        "refuse",
        description="A teacher with another tokenizer: refuse it, or compare text spans by uld (arXiv 2402.12030) or "
        "gold (Hugging Face 2025). ours",
    )
    overflow: Literal["drop", "refuse"] = Field(
        "drop", description="What happens to a pair longer than the window; counted. ours"
    )
    gradient_norm_every: int = Field(
        50, ge=0, description="Steps between two measurements of each term's gradient norm; 0 is off. ours"
    )
    divergence_chunk: int = Field(1024, ge=1, description="Positions per chunk of the divergence. ours")
    seed: int = Field(0, ge=0, description="Order of the pairs. ours")
    heldout: HeldoutConfig = Field(HeldoutConfig.model_validate({}), description="Measurement before and after. ours")

    @model_validator(mode="after")
    def validate_weights(self) -> Self:
        """Refuse a loss that is zero everywhere, and a top-k that cannot be had."""
        if self.dpo_weight + self.positive_weight + self.negative_weight == 0:
            raise ValueError(
                "dpo_weight, positive_weight and negative_weight are all 0, expected at least one above: the "
                "loss would be zero everywhere. Raise one in pipelines.yaml."
            )
        if self.teacher_top_k and (self.divergence != "forward_kl" or self.temperature != 1.0):
            raise ValueError(
                f"teacher_top_k={self.teacher_top_k} with divergence={self.divergence} and temperature="
                f"{self.temperature}, expected forward_kl at 1: only that has a tail bucket. Set "
                "teacher_top_k to 0 or the divergence to forward_kl at temperature 1."
            )
        if self.teacher_top_k and self.cross_tokenizer != "refuse":
            raise ValueError(
                f"teacher_top_k={self.teacher_top_k} with cross_tokenizer={self.cross_tokenizer}, expected 0: spans "
                "are compared over whole vocabularies. Set teacher_top_k to 0."
            )
        return self


class TeacherLogitsConfig(IdentityConfig):
    """A teacher's best tokens at every supervised position of the preference pairs, on disk."""

    top_k: int = Field(64, ge=1, description="Tokens kept per position; DPD may use fewer. ours")
    sequence_length: int = Field(
        65536, ge=16, description="Longest conversation in tokens; longer pairs are left out. ours"
    )
    chunk_pairs: int = Field(256, ge=1, description="Pairs per committed chunk. ours")
