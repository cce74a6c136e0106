"""Identity configs of pretraining: the four FG-WSD phases, the teacher, and the Hugging Face export."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig, ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.configs.sft import HeldoutConfig

Phase = Literal["warmup", "diverse_stable", "hq_stable", "decay"]
PHASES: tuple[Phase, ...] = ("warmup", "diverse_stable", "hq_stable", "decay")


class PhaseTokens(IdentityConfig):
    """Tokens of the four phases; each is rounded to whole steps of the one schedule they share."""

    warmup: int = Field(default=100_000_000_000, ge=0, description="tokens. paper")
    diverse_stable: int = Field(default=12_400_000_000_000, ge=0, description="tokens. paper")
    hq_stable: int = Field(default=6_500_000_000_000, ge=0, description="tokens. paper")
    decay: int = Field(default=4_000_000_000_000, ge=0, description="tokens. paper")

    def of(self, phase: Phase) -> int:
        """Return one phase's tokens."""
        return {
            "warmup": self.warmup,
            "diverse_stable": self.diverse_stable,
            "hq_stable": self.hq_stable,
            "decay": self.decay,
        }[phase]


class AbfConfig(IdentityConfig):
    """Extend the window during decay by raising the RoPE base (ABF)."""

    theta: float = Field(default=5e6, gt=0, description="RoPE base from the first decay step on. card")
    sequence_length: int = Field(default=65_536, ge=8, description="Extended window in tokens. paper")
    fraction: float = Field(
        default=0.1, ge=0, le=1, description="Last share of the decay tokens trained at the extended window. ours"
    )


class FgwsdConfig(IdentityConfig):
    """One phase of FG-WSD pretraining (report section 3): one rate schedule over all phases, one blend per phase."""

    phase: Phase = Field(description="Which of the four phases this stage trains. paper")
    phase_tokens: PhaseTokens = Field(default_factory=PhaseTokens, description="Tokens of all four phases. paper")
    blend: Literal["fine_grained", "even"] = Field(
        default="fine_grained",
        description="even: the same tokens, spread evenly over the run: vanilla WSD, the ablation's control. paper",
    )
    peak_lr: float = Field(default=4.5e-4, gt=0, description="Stable learning rate. paper")
    floor_lr: float = Field(default=1.5e-6, gt=0, description="Learning rate at the end of decay. paper")
    decay_shape: Literal["linear", "cosine", "minus_sqrt", "exponential"] = Field(
        default="linear", description="Form of the decay. ours"
    )
    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}), description="card")
    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig.model_validate({}), description="ours")
    sequence_length: int = Field(default=4096, ge=8, description="Window in tokens before it is extended. ours")
    global_batch_size: int = Field(
        default=2048, ge=1, description="Sequences of sequence_length per step; tokens per step stay constant. ours"
    )
    abf: AbfConfig = Field(default_factory=AbfConfig, description="Window extension, used by the decay phase. paper")
    document_masking: Literal["never", "decay", "always"] = Field(
        default="decay", description="In which phases a token sees only its own document. ours"
    )
    validation_sequences: int = Field(default=1024, ge=2, description="Held-out sequences measured. ours")
    seed: int = Field(default=1, ge=0, description="Initial weights and document order. ours")

    @model_validator(mode="after")
    def validate_batch_tokens(self) -> Self:
        """Refuse an extended window that does not divide the tokens of one step."""
        tokens = self.global_batch_size * self.sequence_length
        if self.abf.fraction > 0 and tokens % self.abf.sequence_length:
            raise ValueError(
                f"a step has {self.global_batch_size} x {self.sequence_length} = {tokens} tokens, which is no "
                f"multiple of abf.sequence_length {self.abf.sequence_length}: tokens per step stay constant, so it "
                "must be. Change abf.sequence_length or global_batch_size."
            )
        return self


class TeacherConfig(IdentityConfig):
    """A larger model than the student, pretrained on the same mixture (WSD) and tuned on the same SFT samples."""

    model: ModelConfig = Field(default_factory=lambda: ModelConfig.model_validate({}), description="ours")
    optimizer: OptimizerConfig = Field(default_factory=lambda: OptimizerConfig.model_validate({}), description="ours")
    tokens: int = Field(default=1_000_000_000_000, ge=1, description="Pretraining tokens. ours")
    sequence_length: int = Field(default=4096, ge=8, description="Window in tokens. ours")
    global_batch_size: int = Field(default=1024, ge=1, description="Sequences per pretraining step. ours")
    peak_lr: float = Field(default=4.5e-4, gt=0, description="Pretraining peak learning rate. ours")
    floor_lr: float = Field(default=1.5e-6, gt=0, description="Pretraining final learning rate. ours")
    warmup_fraction: float = Field(default=0.02, ge=0, lt=1, description="Share of the pretraining tokens. ours")
    decay_fraction: float = Field(default=0.2, ge=0, lt=1, description="Share of the pretraining tokens. ours")
    sft_epochs: int = Field(default=2, ge=0, description="Passes over the SFT samples. ours")
    sft_learning_rate: float = Field(default=5e-5, gt=0, description="SFT peak learning rate, cosine. ours")
    sft_global_batch_size: int = Field(default=256, ge=1, description="Packed sequences per SFT step. ours")
    sft_sequence_length: int = Field(default=32_768, ge=8, description="SFT window in tokens. ours")
    sft_warmup_fraction: float = Field(default=0.03, ge=0, lt=1, description="Share of the SFT steps. ours")
    validation_sequences: int = Field(default=1024, ge=2, description="Held-out sequences measured. ours")
    heldout: HeldoutConfig = Field(
        default_factory=lambda: HeldoutConfig.model_validate({}), description="Measured after SFT. ours"
    )
    seed: int = Field(default=2, ge=0, description="Initial weights and order. ours")


class ExportConfig(IdentityConfig):
    """Write a checkpoint as a Hugging Face folder and prove that it is the same model."""

    tolerance: float = Field(
        default=2e-3, gt=0, description="Largest logit difference allowed between transformers and Megatron. ours"
    )
    probe_tokens: int = Field(default=256, ge=8, description="Tokens of the comparison. ours")
    sampling: SamplingConfig = Field(
        default_factory=lambda: SamplingConfig(temperature=0.6, top_p=0.95, top_k=0, max_new_tokens=64),
        description="Written into generation_config.json; used for the sample responses. paper",
    )
    prompts: tuple[str, ...] = Field(
        default=("What is 7 + 5?", "Write one sentence about the sea."),
        description="Prompts answered in the report. ours",
    )
    seed: int = Field(default=3, ge=0, description="Sampling. ours")
