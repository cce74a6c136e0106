"""Quality dimensions: which of the candidates become labels (report section 2)."""

from nanbeige_core.artifacts.references import CorpusRef, QualityDimensionsRef
from tasks.hand_off import StageCall, stage_task


@stage_task("quality_dimensions")
def quality_dimensions(call: StageCall, corpus: CorpusRef) -> QualityDimensionsRef:
    """Choose the labels."""
    return call.run(corpus=corpus)
