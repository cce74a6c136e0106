"""Cold-start data: checked chat samples (report section 4)."""

from nanbeige_core.artifacts.references import PromptSetRef, SFTDatasetRef
from tasks.hand_off import StageCall, stage_task


@stage_task("sft_data")
def sft_data(call: StageCall, problems: PromptSetRef) -> SFTDatasetRef:
    """Select and check cold-start samples."""
    return call.run(problems=problems)
