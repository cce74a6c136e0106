"""Retrieval, deduplication and decontamination (report section 2)."""

from nanbeige_core.artifacts.references import CuratedCorpusRef, EmbeddingRef, PromptSetRef, TaggedCorpusRef
from tasks.hand_off import StageCall, stage_task


@stage_task("retrieval_dedup")
def retrieval_dedup(
    call: StageCall, tagged: TaggedCorpusRef, problems: PromptSetRef, embedding: EmbeddingRef | None = None
) -> CuratedCorpusRef:
    """Keep the documents worth training on, in two tiers."""
    return call.run(tagged=tagged, problems=problems, embedding=embedding)
