"""Tokenizer training (model card)."""

from nanbeige_core.artifacts.references import CuratedCorpusRef, PromptSetRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("tokenizer")
def tokenizer(call: StageCall, corpus: CuratedCorpusRef, problems: PromptSetRef) -> TokenizerRef:
    """Train the tokenizer."""
    return call.run(corpus=corpus, problems=problems)
