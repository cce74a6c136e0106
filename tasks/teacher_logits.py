"""Teacher logits: a teacher's best tokens at every supervised position, on disk (ours)."""

from nanbeige_core.artifacts.references import CheckpointRef, PreferencePairsRef, TeacherLogitsRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("teacher_logits")
def teacher_logits(
    call: StageCall, teacher: CheckpointRef, tokenizer: TokenizerRef, pairs: PreferencePairsRef
) -> TeacherLogitsRef:
    """Cache the teacher's distributions over the pairs."""
    return call.run(teacher=teacher, tokenizer=tokenizer, pairs=pairs)
