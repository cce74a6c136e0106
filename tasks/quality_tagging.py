"""Quality tagging: twenty 0-9 labels per document (report section 2)."""

from nanbeige_core.artifacts.references import CorpusRef, QualityDimensionsRef, TaggedCorpusRef
from tasks.hand_off import StageCall, stage_task


@stage_task("quality_tagging")
def quality_tagging(
    call: StageCall, corpus: CorpusRef, dimensions: QualityDimensionsRef | None = None
) -> TaggedCorpusRef:
    """Label every document."""
    return call.run(corpus=corpus, dimensions=dimensions)
