"""Roll out only: what an RL stage would train on, kept as an artifact."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, RewardModelRef, RolloutsRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("rollouts")
def rollouts(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    prompts: PromptSetRef,
    reward_model: RewardModelRef | None = None,
) -> RolloutsRef:
    """Sample and reward the steps of an RL stage without training."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, prompts=prompts, reward_model=reward_model)
