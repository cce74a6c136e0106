"""Deliberative refinement and CoT reconstruction (report section 5)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, SFTDatasetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("refinement")
def refinement(
    call: StageCall, checkpoint: CheckpointRef, tokenizer: TokenizerRef, problems: PromptSetRef, teacher: CheckpointRef
) -> SFTDatasetRef:
    """Draft, judge, revise and reconstruct the overall SFT data."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, teacher=teacher)
