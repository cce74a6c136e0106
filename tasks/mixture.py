"""Tokenised mixtures of the four pretraining phases (report section 3)."""

from nanbeige_core.artifacts.references import CuratedCorpusRef, PromptSetRef, TokenizedMixtureRef, TokenizerRef
from tasks.hand_off import StageCall, stage_task


@stage_task("mixture")
def mixture(
    call: StageCall, corpus: CuratedCorpusRef, problems: PromptSetRef, tokenizer: TokenizerRef
) -> TokenizedMixtureRef:
    """Write indexed datasets and phase weights."""
    return call.run(corpus=corpus, problems=problems, tokenizer=tokenizer)
