"""How likely a model finds a response, or an answer after a chain of thought: mean log-probability per token.

Shapes: B sequence, S position, _tp local columns of this tensor-parallel rank.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.vocab_parallel import vocab_parallel_log_probs
from nanbeige_core.sft.chat import EncodedSample, EncodesText, Message, encode_sample, render_prompt
from nanbeige_core.sft.packing import make_batches, pack_best_fit

ROUNDED = 256
"""Packed sequences are as wide as the longest passage, rounded up to this many tokens."""
BOUNDARY_TOKENS = 4
"""How far a token boundary is looked for around where the given part alone would end."""


class GivesLogits(Protocol):
    """A frozen model; `megatron.frozen.FrozenModel` satisfies it."""

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return logits_BSV_tp without gradient."""
        ...


class Passage(NamedTuple):
    """A conversation's next turn: `given` is taken as read, `scored` is what the likelihood is asked of."""

    conversation: Sequence[Message]
    given: str
    scored: str


class Likelihood(NamedTuple):
    """A model that scores text within its window, `micro_batch_size` packed sequences at a time."""

    model: GivesLogits
    tokenizer: EncodesText
    vocab_size: int
    window: int
    micro_batch_size: int

    def score(self, passages: Sequence[Passage]) -> list[float | None]:
        """Return the mean log-probability of each passage's scored tokens and end token, in nats.

        None for a passage that does not fit the window or cannot be encoded with an exact boundary.
        """
        samples = [_encode(self.tokenizer, passage) for passage in passages]
        places = [at for at, sample in enumerate(samples) if sample and len(sample.ids) <= self.window]
        fitting = [sample for at in places if (sample := samples[at]) is not None]
        # a long window filled with padding would cost as much as one filled with text
        longest = max((len(sample.ids) for sample in fitting), default=1)
        width = min(self.window, -(-longest // ROUNDED) * ROUNDED)
        bins = pack_best_fit([len(sample.ids) for sample in fitting], width)
        batches = make_batches(fitting, bins, sequence_length=width, micro_batch_size=self.micro_batch_size)
        means = [mean for batch in batches for mean in self._segment_means(batch)]
        scores: list[float | None] = [None] * len(passages)
        for member, mean in zip((member for row in bins for member in row), means, strict=True):
            scores[places[member]] = mean
        return scores

    def _segment_means(self, batch: Batch) -> list[float]:
        log_probs_BS = vocab_parallel_log_probs(self.model.logits(batch), batch.labels_BS, self.vocab_size)
        means: list[float] = []
        assert batch.segment_ids_BS is not None
        for log_probs_S, mask_S, segment_S in zip(log_probs_BS, batch.loss_mask_BS, batch.segment_ids_BS, strict=True):
            for segment in range(1, int(segment_S.max()) + 1):
                keep_S = (segment_S == segment) & (mask_S > 0)
                means.append(float(log_probs_S[keep_S].mean()))
        return means


def _encode(tokenizer: EncodesText, passage: Passage) -> EncodedSample | None:
    """Encode the turn with a mask on the scored part only."""
    turn: Message = {"role": "assistant", "content": passage.given + passage.scored}
    try:
        sample = encode_sample(tokenizer, [*passage.conversation, turn])
    except ValueError:
        return None
    start = _boundary(tokenizer, render_prompt(passage.conversation) + passage.given, sample.ids)
    if start is None:
        return None
    mask = [flag if place >= start else 0 for place, flag in enumerate(sample.mask)]
    return EncodedSample(sample.ids, mask)


def _boundary(tokenizer: EncodesText, prefix: str, ids: list[int]) -> int | None:
    """Return how many of `ids` make up `prefix`; None when a token straddles its end.

    A text may be cut into other tokens where it goes on: GPT-2's pattern joins two newlines only at a text's end.
    """
    alone = tokenizer.encode(prefix, add_special_tokens=False)
    if ids[: len(alone)] == alone:
        return len(alone)
    near = range(max(0, len(alone) - BOUNDARY_TOKENS), len(alone) + BOUNDARY_TOKENS + 1)
    return next((n for n in near if tokenizer.decode(ids[:n], skip_special_tokens=False) == prefix), None)
