"""The on-policy filter before each RL stage: measure, then keep a band (report section 7)."""

from nanbeige_core.artifacts.references import CheckpointRef, PassRatesRef, PromptSetRef, RewardModelRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("pass_rates")
def pass_rates(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    reward_model: RewardModelRef | None = None,
) -> PassRatesRef:
    """Sample every prompt and count passes."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, reward_model=reward_model)


@stage_task("on_policy_filter")
def on_policy_filter(call: StageCall, pass_rates: PassRatesRef, problems: PromptSetRef) -> PromptSetRef:
    """Keep prompts inside the pass-rate band."""
    return call.run(pass_rates=pass_rates, problems=problems)
