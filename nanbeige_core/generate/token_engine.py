"""What every engine that samples token ids does with text: the project's chat template before, decoding after."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from nanbeige_core.generate.protocol import Completion, Message, Reply
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.sft.chat import encode_prompt


class TokenEngine(ABC):
    """An engine whose prompts and responses are token ids of `tokenizer`."""

    tokenizer: PreTrainedTokenizerFast

    @property
    @abstractmethod
    def window(self) -> int:
        """Return how many tokens prompt and response may have together."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt."""

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Reply]]:
        """Draw `n` answers to each conversation with the project's chat template.

        One that leaves no room in the window is answered by empty replies that end by length.
        """
        prompts = [encode_prompt(self.tokenizer, turns) for turns in conversations]
        fitting = [prompt for prompt in prompts if len(prompt) < self.window]
        drawn = iter(self.generate(fitting, sampling, n=n, seed=seed) if fitting else [])
        return [
            [Reply(self.text(item), item.finish_reason) for item in next(drawn)]
            if len(prompt) < self.window
            else [Reply("", "length")] * n
            for prompt in prompts
        ]

    def text(self, completion: Completion) -> str:
        """Decode a response, its stop token left out and the thinking marks kept."""
        ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))
