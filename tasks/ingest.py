"""Ingest: documents from every registered source (report section 2)."""

from nanbeige_core.artifacts.references import CorpusRef
from tasks.hand_off import StageCall, stage_task


@stage_task("ingest")
def ingest(call: StageCall) -> CorpusRef:
    """Read every source into one corpus."""
    return call.run()
