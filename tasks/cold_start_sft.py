"""Cold-start SFT (report section 4)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, SFTDatasetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("cold_start_sft")
def cold_start_sft(
    call: StageCall, checkpoint: CheckpointRef, tokenizer: TokenizerRef, problems: PromptSetRef, data: SFTDatasetRef
) -> CheckpointRef:
    """Fine-tune the base model on reasoning samples."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, data=data)
