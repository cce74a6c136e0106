"""Evaluation of several checkpoints on every suite (report section 8)."""

from nanbeige_core.artifacts.references import CheckpointRef, EvalReportRef, PromptSetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("evaluate")
def evaluate(
    call: StageCall,
    base: CheckpointRef,
    final: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    **further: CheckpointRef,
) -> EvalReportRef:
    """Score the checkpoints; any further ones are columns of the same table."""
    return call.run(base=base, final=final, tokenizer=tokenizer, problems=problems, **further)
