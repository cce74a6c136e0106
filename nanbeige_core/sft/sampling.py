"""Draw responses to prompt rows and verify them: what refinement and preference pairs have in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from transformers import PreTrainedTokenizerFast

from nanbeige_core.generate.openai_engine import OpenAIEngine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import (
    CONTROL_TOKENS,
    THINK_END,
    THINK_START,
    TURN_END,
    Message,
    encode_prompt,
    is_well_formed,
    render_message,
    render_response,
)


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


class Writer(Protocol):
    """Anybody who writes the next turn of a conversation."""

    def draw(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Drawn]]:
        """Draw `n` turns of each conversation, in order; none where a conversation is too long."""
        ...


@dataclass(frozen=True)
class ServedWriter:
    """A model behind an OpenAI-compatible endpoint; what it writes without thinking marks is an answer."""

    engine: OpenAIEngine

    def draw(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Drawn]]:
        """Draw `n` turns of each conversation; raises RuntimeError when the endpoint gives up."""
        if n == 0:
            return [[] for _ in conversations]
        told = [[_spoken(turn) for turn in turns] for turns in conversations]
        replies = self.engine.chat(told, sampling, n=n, seed=seed)
        return [[Drawn(as_response(item.text), item.finish_reason == "length") for item in group] for group in replies]


@dataclass(frozen=True)
class PlainWriter:
    """A local model that never learnt the project's format: what it writes is an answer without reasoning."""

    writer: Writer

    def draw(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Drawn]]:
        """Draw as the writer does."""
        drawn = self.writer.draw(conversations, sampling, n=n, seed=seed)
        return [[item._replace(text=as_response(item.text)) for item in group] for group in drawn]


def as_response(text: str) -> str:
    """Return a text in the project's format: without thinking marks it is an answer whose reasoning is empty."""
    body = text.strip()
    return body if THINK_START in body or THINK_END in body or not body else render_response("", body)


def _spoken(turn: Message) -> dict[str, str]:
    """Return a turn as an endpoint takes it: role and content, with the reasoning inside the content."""
    content = render_message(turn).split("\n", 1)[1].removesuffix(f"{TURN_END}\n")
    return {"role": str(turn["role"]), "content": content}


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
