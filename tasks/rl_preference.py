"""RL on human preference with a pairwise reward model (report section 7)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, RewardModelRef, RolloutsRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("rl_preference")
def rl_preference(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    prompts: PromptSetRef,
    reward_model: RewardModelRef,
    rollouts: RolloutsRef | None = None,
) -> CheckpointRef:
    """Train on-policy against the pairwise judge."""
    return call.run(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        problems=problems,
        prompts=prompts,
        reward_model=reward_model,
        rollouts=rollouts,
    )
