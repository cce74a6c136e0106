"""Overall SFT (report section 5)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, SFTDatasetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("overall_sft")
def overall_sft(
    call: StageCall, checkpoint: CheckpointRef, tokenizer: TokenizerRef, problems: PromptSetRef, data: SFTDatasetRef
) -> CheckpointRef:
    """Fine-tune on the refined mix."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, data=data)
