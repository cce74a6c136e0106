"""Dual Preference Distillation (report section 6)."""

from nanbeige_core.artifacts.references import CheckpointRef, PreferencePairsRef, PromptSetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("dpd")
def dpd(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    teacher: CheckpointRef,
    pairs: PreferencePairsRef,
) -> CheckpointRef:
    """Distil preferences at sequence and token level."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, teacher=teacher, pairs=pairs)
