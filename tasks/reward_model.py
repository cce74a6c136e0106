"""The pairwise reward model (report section 7)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, RewardModelRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("reward_model")
def reward_model(
    call: StageCall, checkpoint: CheckpointRef, tokenizer: TokenizerRef, problems: PromptSetRef
) -> RewardModelRef:
    """Train the judge."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems)
