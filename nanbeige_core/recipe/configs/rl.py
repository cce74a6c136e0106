"""Identity configs of the reinforcement learning stages (report: STEM, then coding, then human preference)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.fingerprint import added_field

Domain = Literal["stem", "coding", "preference"]
RewardScheme = Literal["pivot", "reference", "circular", "all_pairs"]


def _refuse_truncated_sampling(sampling: SamplingConfig, stage: str) -> None:
    if sampling.top_p != 1 or sampling.top_k != 0 or sampling.temperature == 0:
        raise ValueError(
            f"{stage}.sampling has temperature {sampling.temperature}, top_p {sampling.top_p}, top_k {sampling.top_k}; "
            "expected temperature above 0, top_p 1 and top_k 0: a truncated sampler draws from another distribution "
            "than the one the trainer differentiates. Set top_p: 1 and top_k: 0."
        )


class PassRatesConfig(IdentityConfig):
    """Sample a policy several times per problem (report section 3.3: 16 times, before each RL stage)."""

    domain: Domain = Field(default="stem", description="Which RL stage the rates are for. paper")
    samples: int = Field(default=16, ge=2, description="Responses per problem. paper")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=32768), description="As in the RL stage that follows. ours"
    )
    limit: int | None = Field(default=None, ge=1, description="At most this many problems; none = all. ours")
    chunk_prompts: int = Field(default=256, ge=1, description="Problems drawn and committed together. ours")
    split: str = Field(default="rl", description="PromptSet split to measure. ours")
    opponent: Literal["reference", "greedy"] = Field(
        default="reference", description="What preference responses must beat: reference or own greedy answer. ours"
    )
    seed: int = Field(default=1, ge=0, description="Of the sampler. ours")
    verifier_agent: str = added_field(
        "", description="Model that judges with Python what the verifier's ladder cannot read; empty = none. paper"
    )

    @model_validator(mode="after")
    def validate_sampling(self) -> Self:
        """Require the full distribution, the one RL samples from."""
        _refuse_truncated_sampling(self.sampling, "pass_rates")
        return self


class OnPolicyFilterConfig(IdentityConfig):
    """Keep problems that are neither hopeless nor solved (report section 3.3: between 10 % and 90 %)."""

    domain: Domain = Field(default="stem", description="Which RL stage the problems are for. paper")
    low: float = Field(default=0.10, ge=0, le=1, description="Lower bound of the kept pass rates. paper")
    high: float = Field(default=0.90, ge=0, le=1, description="Upper bound of the kept pass rates. paper")
    strict: bool = Field(default=True, description="Bounds themselves are dropped. paper")
    minimum: int = Field(default=1, ge=1, description="Stop when fewer problems stay. ours")

    @model_validator(mode="after")
    def validate_band(self) -> Self:
        """Refuse an empty band."""
        if self.low >= self.high:
            raise ValueError(f"on_policy_filter.low {self.low} is not below high {self.high}: nothing could be kept.")
        return self


class PolicyLossConfig(IdentityConfig):
    """GRPO with DAPO's token mean; what each value means is in `rl.losses` and `rl.advantages`."""

    clip_low: float = Field(default=0.2, gt=0, lt=1, description="Inert with one update per rollout. ours (DAPO)")
    clip_high: float = Field(default=0.28, gt=0, description="Inert with one update per rollout. ours (DAPO)")
    dual_clip: float | None = Field(
        default=None, gt=1, description="Bound of the loss at negative advantage. ours: off"
    )
    importance_cap: float | None = Field(
        default=2.0, gt=0, description="Truncated importance sampling; none = off. ours"
    )
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = Field(
        default="token_mean", description="Mean over all tokens of the batch. ours (DAPO)"
    )
    baseline: Literal["group_mean", "leave_one_out"] = Field(default="group_mean", description="GRPO's. ours")
    scale: Literal["standard_deviation", "none"] = Field(default="standard_deviation", description="GRPO's. ours")
    epsilon: float = Field(default=1e-6, gt=0, description="Added to the standard deviation. ours")
    mask_truncated: bool = Field(
        default=True, description="Truncated responses leave the loss and its denominator, after advantages. paper"
    )


class HeldOutConfig(IdentityConfig):
    """How the gain of an RL stage is measured on problems it never trains on."""

    limit: int | None = Field(default=None, ge=1, description="At most this many held-out problems. ours")
    samples: int = Field(default=4, ge=1, description="Responses per problem, before and after. ours")
    temperature: float = Field(default=1.0, ge=0, description="As in training. ours")


class MonitorConfig(IdentityConfig):
    """Measurements during an RL stage: of its own held-out problems and of every earlier domain's."""

    every: int = Field(default=0, ge=0, description="Steps between measurements; 0 = only before and after. ours")
    patience: int = Field(
        default=0, ge=0, description="Stop after this many measurements without a new best; 0 = never. ours"
    )
    tolerance: float = Field(
        default=0.01, ge=0, lt=1, description="A larger fall of an earlier domain's pass rate is reported. ours"
    )
    limit: int | None = Field(default=200, ge=1, description="Held-out problems per earlier domain. ours")

    @model_validator(mode="after")
    def validate_patience(self) -> Self:
        """Refuse a plateau rule that nothing would feed."""
        if self.patience and not self.every:
            raise ValueError(
                f"rl.monitor.patience is {self.patience} but monitor.every is 0: nothing is measured during the stage, "
                "so a plateau could never be seen. Set monitor.every to a number of steps, or patience to 0."
            )
        return self


class RlConfig(IdentityConfig):
    """On-policy GRPO without a KL penalty (report section 3.3)."""

    domain: Domain = Field(default="stem", description="One domain a stage. paper")
    steps: int = Field(default=200, ge=1, description="Optimizer steps. ours")
    prompts_per_step: int = Field(default=128, ge=1, description="Groups per rollout. ours")
    group_size: int = Field(default=16, ge=2, description="Responses per prompt. ours")
    updates_per_rollout: int = Field(default=1, ge=1, description="1 = strictly on-policy. paper")
    learning_rate: float = Field(default=1e-6, gt=0, description="Constant after warmup. ours")
    warmup_steps: int = Field(default=0, ge=0, description="Linear rise of the learning rate. ours")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(weight_decay=0.0), description="AdamW. ours")
    loss: PolicyLossConfig = Field(default=PolicyLossConfig(), description="The policy loss. ours")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=32768), description="Temperature 1, nothing truncated. ours"
    )
    reward: RewardScheme = Field(default="pivot", description="Pairwise verdicts to rewards (preference only). ours")
    heldout: HeldOutConfig = Field(default=HeldOutConfig(), description="Measurement before and after. ours")
    probe_tolerance: float = Field(default=2e-3, gt=0, description="nat; engine against trainer after each sync. ours")
    seed: int = Field(default=1, ge=0, description="Of prompt order and sampler. ours")
    monitor: MonitorConfig = added_field(
        MonitorConfig(), description="Early stop and watch over earlier domains. ours: off"
    )
    verifier_agent: str = added_field(
        "", description="Model that judges with Python what the verifier's ladder cannot read; empty = none. paper"
    )

    rollout_lag: Literal[0, 1] = added_field(
        0,
        description="1 = a step's rollout is sampled while the step before it trains, at weights one step older, and "
        "weighed by truncated importance sampling. paper: on-policy, 0",
    )

    @model_validator(mode="after")
    def validate_sampling(self) -> Self:
        """Require the full distribution: the ratio of the loss assumes it."""
        _refuse_truncated_sampling(self.sampling, "rl")
        return self

    @model_validator(mode="after")
    def validate_updates(self) -> Self:
        """Require rollouts that can be cut into that many updates."""
        if self.prompts_per_step % self.updates_per_rollout:
            raise ValueError(
                f"rl.prompts_per_step {self.prompts_per_step} is not a multiple of updates_per_rollout "
                f"{self.updates_per_rollout}: each update takes whole groups."
            )
        return self

    @model_validator(mode="after")
    def validate_lag(self) -> Self:
        """Require the correction that a rollout of older weights needs."""
        if self.rollout_lag and self.loss.importance_cap is None:
            raise ValueError(
                "rl.rollout_lag is 1 but loss.importance_cap is none: responses of older weights would be trained on "
                "as if the present ones had drawn them. Set loss.importance_cap (2.0 is the default), or rollout_lag 0."
            )
        return self


class RolloutsConfig(IdentityConfig):
    """Sample and reward what an RL stage would train on, without training: its rollouts can be trained on later."""

    domain: Domain = Field(default="stem", description="One domain a stage. paper")
    steps: int = Field(default=1, ge=1, description="Steps of prompts, all drawn from the given policy. ours")
    prompts_per_step: int = Field(default=128, ge=1, description="Groups per step. ours")
    group_size: int = Field(default=16, ge=2, description="Responses per prompt. ours")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=32768), description="Temperature 1, nothing truncated. ours"
    )
    reward: RewardScheme = Field(default="pivot", description="Pairwise verdicts to rewards (preference only). ours")
    seed: int = Field(default=1, ge=0, description="Of prompt order and sampler. ours")
    verifier_agent: str = added_field(
        "", description="Model that judges with Python what the verifier's ladder cannot read; empty = none. paper"
    )

    @model_validator(mode="after")
    def validate_sampling(self) -> Self:
        """Require the full distribution, as the training that follows does."""
        _refuse_truncated_sampling(self.sampling, "rollouts")
        return self


class RewardModelConfig(IdentityConfig):
    """A pairwise judge that answers in one token (report section 3.3)."""

    steps: int = Field(default=1000, ge=1, description="Optimizer steps. ours")
    pairs_per_step: int = Field(default=64, ge=1, description="Pairs per step, each shown in both orders. ours")
    learning_rate: float = Field(default=2e-6, gt=0, description="Peak, linear to zero. ours")
    warmup_steps: int = Field(default=20, ge=0, description="Linear rise of the learning rate. ours")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="AdamW. ours")
    prompts: int | None = Field(default=None, ge=2, description="At most this many prompts; none = all. ours")
    policy_samples: int = Field(default=4, ge=0, description="Rejected answers drawn from the policy per prompt. ours")
    corruptions: int = Field(default=3, ge=0, description="Rejected answers made by corruption per prompt. ours")
    ties: float = Field(
        default=0.05, ge=0, lt=1, description="Share of pairs with the same answer twice, label 0.5. ours"
    )
    validation_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of prompts kept for validation. ours")
    sampling: SamplingConfig = Field(
        default=SamplingConfig(max_new_tokens=4096), description="How rejected answers are drawn. ours"
    )
    seed: int = Field(default=1, ge=0, description="Of pairs and order. ours")

    @model_validator(mode="after")
    def validate_rejected(self) -> Self:
        """Require something to reject."""
        if self.policy_samples + self.corruptions == 0:
            raise ValueError(
                "reward_model.policy_samples and corruptions are both 0: no rejected answers would exist. Raise one."
            )
        return self
