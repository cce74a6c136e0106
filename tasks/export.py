"""Export to a Hugging Face folder (model card)."""

from nanbeige_core.artifacts.references import CheckpointRef, HFModelRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("export")
def export(call: StageCall, checkpoint: CheckpointRef, tokenizer: TokenizerRef) -> HFModelRef:
    """Write and check the Hugging Face model."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer)
