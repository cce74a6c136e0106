"""Bilingual embedding: a page and its translation lie together (ours)."""

from nanbeige_core.artifacts.references import CorpusRef, EmbeddingRef
from tasks.hand_off import StageCall, stage_task


@stage_task("bilingual_embedding")
def bilingual_embedding(call: StageCall, corpus: CorpusRef) -> EmbeddingRef:
    """Fit and test the embedding."""
    return call.run(corpus=corpus)
