"""Preference pairs: teacher positives, student negatives (report section 6)."""

from nanbeige_core.artifacts.references import (
    CheckpointRef,
    PreferencePairsRef,
    PromptSetRef,
    RewardModelRef,
    TokenizerRef,
)
from tasks.hand_off import StageCall, stage_task


@stage_task("preference_pairs")
def preference_pairs(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    teacher: CheckpointRef,
    reward_model: RewardModelRef | None = None,
) -> PreferencePairsRef:
    """Sample and filter pairs."""
    return call.run(
        checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, teacher=teacher, reward_model=reward_model
    )
