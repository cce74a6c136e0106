"""Import of an existing Hugging Face model (ours)."""

from nanbeige_core.artifacts.references import CheckpointRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("import_tokenizer")
def import_tokenizer(call: StageCall) -> TokenizerRef:
    """Take over the tokenizer."""
    return call.run()


@stage_task("import_model")
def import_model(call: StageCall, tokenizer: TokenizerRef) -> CheckpointRef:
    """Take over the weights as a Megatron checkpoint."""
    return call.run(tokenizer=tokenizer)
