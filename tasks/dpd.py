"""Dual Preference Distillation (report section 6)."""

from nanbeige_core.artifacts.references import (
    CheckpointRef,
    PreferencePairsRef,
    PromptSetRef,
    TeacherLogitsRef,
    TokenizerRef,
)
from tasks.hand_off import StageCall, stage_task


@stage_task("dpd")
def dpd(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    pairs: PreferencePairsRef,
    teacher: CheckpointRef | None = None,
    teacher_tokenizer: TokenizerRef | None = None,
    teacher_logits: TeacherLogitsRef | None = None,
) -> CheckpointRef:
    """Distil preferences at sequence and token level."""
    return call.run(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        problems=problems,
        pairs=pairs,
        teacher=teacher,
        teacher_tokenizer=teacher_tokenizer,
        teacher_logits=teacher_logits,
    )
