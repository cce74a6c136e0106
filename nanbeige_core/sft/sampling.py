"""Draw responses to prompt rows and verify them: what refinement and preference pairs have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.generate.protocol import Engine
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import CONTROL_TOKENS, Message, encode_prompt, is_well_formed


class Drawn(NamedTuple):
    """One sampled response as text, without its end token."""

    text: str
    truncated: bool

    @property
    def trainable(self) -> bool:
        """Tell whether the text can stand in a sample: no turn marker inside."""
        return bool(self.text) and not any(token in self.text for token in CONTROL_TOKENS)

    @property
    def usable(self) -> bool:
        """Tell whether it ended by itself, in the format, and without control tokens inside."""
        return not self.truncated and is_well_formed(self.text) and self.trainable


@dataclass(frozen=True)
class Sampler:
    """A policy with its tokenizer."""

    engine: Engine
    tokenizer: PreTrainedTokenizerFast

    def draw(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Drawn]]:
        """Draw `n` responses to each conversation; none where the prompt leaves no room for a whole response."""
        prompts = [encode_prompt(self.tokenizer, turns) for turns in conversations]
        fits = [len(ids) + sampling.max_new_tokens <= self.engine.window for ids in prompts]
        fitting = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
        if not fitting or n == 0:
            return [[] for _ in prompts]
        completions = iter(self.engine.generate(fitting, sampling, n=n, seed=seed))
        return [
            [Drawn(self.engine.text(item), item.finish_reason == "length") for item in next(completions)] if fit else []
            for fit in fits
        ]


def ask(row: PromptRow) -> list[Message]:
    """Return a prompt row as a conversation."""
    return [{"role": "user", "content": row.prompt}]
