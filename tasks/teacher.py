"""Teacher: a larger model on the same tokenizer (ours)."""

from nanbeige_core.artifacts.references import (
    CheckpointRef,
    PromptSetRef,
    SFTDatasetRef,
    TokenizedMixtureRef,
    TokenizerRef,
)
from tasks.hand_off import StageCall, stage_task


@stage_task("teacher")
def teacher(
    call: StageCall, mixture: TokenizedMixtureRef, data: SFTDatasetRef, tokenizer: TokenizerRef, problems: PromptSetRef
) -> CheckpointRef:
    """Train the teacher."""
    return call.run(mixture=mixture, data=data, tokenizer=tokenizer, problems=problems)
