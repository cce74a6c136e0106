"""What every generation engine can do: draw responses with their log-probabilities, chat, take new weights.

Prompts are token ids; a caller renders its chat template itself, so what is sampled is exactly what is
trained on. Engines: `transformers_engine` (in process, small CPU runs), `vllm_engine` (in process),
`vllm_server_engine` (a policy's own server), `openai_engine` (anybody's models over HTTP).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from nanbeige_core.recipe.configs.base import SamplingConfig

FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]
"""One chat turn: "role" and "content"."""


class Completion(NamedTuple):
    """One sampled response.

    `token_ids` includes the stop token when `finish_reason` is "stop". `logprobs[t]` is the fp32
    log-probability of `token_ids[t]` under the policy at the sampling temperature (at 1 when greedy), before
    top-p and top-k truncation.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


class Reply(NamedTuple):
    """One chat answer as text, without the stop token."""

    text: str
    finish_reason: FinishReason


class Engine(Protocol):
    """Draw responses from one policy."""

    @property
    def version(self) -> int:
        """Return the version of the weights last given to `update_weights`, 0 before the first."""
        ...

    @property
    def window(self) -> int:
        """Return how many tokens prompt and response may have together."""
        ...

    def text(self, completion: Completion) -> str:
        """Decode a response, its stop token left out and the thinking marks kept."""
        ...

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt, in prompt order; equal arguments and weights give equal
        responses."""
        ...

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Reply]]:
        """Draw `n` answers to each conversation, rendered by the engine's chat template.

        A conversation that leaves no room in the window is answered by empty replies that end by length.
        """
        ...

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Take the full weights under Hugging Face names; the next call samples from them."""
        ...

    def close(self) -> None:
        """Give back what the engine holds; it is not used afterwards."""
        ...
