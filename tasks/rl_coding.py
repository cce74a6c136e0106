"""RL on coding problems with verified rewards (report section 7)."""

from nanbeige_core.artifacts.references import CheckpointRef, PromptSetRef, RolloutsRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("rl_coding")
def rl_coding(
    call: StageCall,
    checkpoint: CheckpointRef,
    tokenizer: TokenizerRef,
    problems: PromptSetRef,
    prompts: PromptSetRef,
    rollouts: RolloutsRef | None = None,
) -> CheckpointRef:
    """Train on-policy on coding problems."""
    return call.run(checkpoint=checkpoint, tokenizer=tokenizer, problems=problems, prompts=prompts, rollouts=rollouts)
