"""The comparison of a sweep's arms (ours)."""

from nanbeige_core.artifacts.references import ArtifactRef, SweepReportRef
from tasks.hand_off import StageCall, stage_task


@stage_task("sweep_report")
def sweep_report(call: StageCall, **runs: ArtifactRef) -> SweepReportRef:
    """Compare the arms' artifacts, whatever their type, problem by problem."""
    return call.run(**runs)
