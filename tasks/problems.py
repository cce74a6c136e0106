"""Problems: prompts with what their verifier needs (report sections 4, 5 and 7)."""

from nanbeige_core.artifacts.references import PromptSetRef
from tasks.hand_off import StageCall, stage_task


@stage_task("problems")
def problems(call: StageCall) -> PromptSetRef:
    """Build the prompt set."""
    return call.run()
