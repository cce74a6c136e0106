"""A generation engine as a model of Inspect, so that any Inspect benchmark measures a checkpoint through it.

Import this module only where Inspect is installed. Requests that arrive close together are sampled as one batch. Tools
are described and called in the text, as the chat template does: JSON between <tool_call> marks.
"""

import asyncio
import json
from collections import Counter
from typing import Any, NamedTuple

from inspect_ai.model import (  # pyright: ignore
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    modelapi,
)
from inspect_ai.tool import ToolCall  # pyright: ignore

from nanbeige_core.generate.protocol import Engine, Message, Reply
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.sft.chat import split_response
from nanbeige_core.verify.tool_call import CALL

GATHER_SECONDS = 0.5
"""How long a batch waits for more requests; Inspect starts all samples at once."""
TOGETHER = 512
"""Requests that Inspect keeps open at a time."""


class _Request(NamedTuple):
    turns: list[Message]
    sampling: SamplingConfig
    answer: "asyncio.Future[Reply]"


@modelapi(name="checkpoint")  # pyright: ignore
class EngineModel(ModelAPI):  # pyright: ignore
    """One checkpoint behind Inspect's model interface."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        *,
        engine: Engine,
        sampling: SamplingConfig,
        seed: int,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)  # pyright: ignore
        self._engine, self._sampling, self._seed = engine, sampling, seed
        self._asked: Counter[str] = Counter()
        self._waiting: list[_Request] = []
        self._lock = asyncio.Lock()

    def max_connections(self) -> int:
        """Return how many requests may wait for one batch."""
        return TOGETHER

    async def generate(self, input: list[Any], tools: list[Any], tool_choice: Any, config: Any) -> Any:
        """Return one reply; a prompt that leaves no room in the window is answered with nothing, as truncated."""
        turns = to_turns(input, tools)
        wanted = min(config.max_tokens or self._sampling.max_new_tokens, self._sampling.max_new_tokens)
        request = _Request(
            turns,
            self._sampling.model_copy(update={"max_new_tokens": wanted}),
            asyncio.get_running_loop().create_future(),
        )
        self._waiting.append(request)
        await asyncio.sleep(GATHER_SECONDS)
        async with self._lock:
            batch, self._waiting = self._waiting, []
            if batch:
                await asyncio.to_thread(self._answer, batch, asyncio.get_running_loop())
        return to_output(self.model_name, await request.answer, tools)

    def _answer(self, batch: list[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """Sample a batch; the k-th time a conversation is asked it gets the k-th stream of random numbers."""
        groups: dict[tuple[int, SamplingConfig], list[_Request]] = {}
        for request in batch:
            key = json.dumps(request.turns, sort_keys=True)
            groups.setdefault((self._asked[key], request.sampling), []).append(request)
            self._asked[key] += 1
        for (turn, sampling), requests in groups.items():
            seed = self._seed * 100_003 + turn
            for request, reply in zip(requests, self._chat(requests, sampling, seed), strict=True):
                loop.call_soon_threadsafe(_settle, request.answer, reply)

    def _chat(self, requests: list[_Request], sampling: SamplingConfig, seed: int) -> list[Reply | Exception]:
        try:
            return [replies[0] for replies in self._engine.chat([r.turns for r in requests], sampling, n=1, seed=seed)]
        except ValueError:
            # one prompt without room refuses the batch: find it, and let the others be answered
            if len(requests) == 1:
                return [Reply("", "length")]
            return [reply for request in requests for reply in self._chat([request], sampling, seed)]
        except Exception as error:  # noqa: BLE001 - raised again where the request waits
            return [error] * len(requests)


def _settle(answer: "asyncio.Future[Reply]", reply: Reply | Exception) -> None:
    if answer.done():
        return
    if isinstance(reply, Exception):
        answer.set_exception(reply)
    else:
        answer.set_result(reply)


def to_turns(messages: list[Any], tools: list[Any]) -> list[Message]:
    """Return Inspect's messages as turns of the chat template, tools first as a system turn."""
    turns: list[Message] = []
    if tools:
        described = "\n".join(
            json.dumps(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.parameters.model_dump(exclude_none=True),
                }
            )
            for tool in tools
        )
        turns.append(
            {"role": "system", "content": f"You may call these tools, as JSON between <tool_call> marks:\n{described}"}
        )
    for message in messages:
        content = message.text
        for call in getattr(message, "tool_calls", None) or []:
            content += (
                f"\n<tool_call>\n{json.dumps({'name': call.function, 'arguments': call.arguments})}\n</tool_call>"
            )
        turns.append({"role": message.role, "content": content})
    return turns


def to_output(model_name: str, reply: Reply, tools: list[Any]) -> Any:
    """Return a reply as Inspect's output: the answer after the thinking, and the tool calls in it."""
    answer = split_response(reply.text).answer
    calls: list[Any] = []
    for index, text in enumerate(CALL.findall(answer) if tools else []):
        try:
            call = json.loads(text)
            calls.append(ToolCall(id=f"call-{index}", function=call["name"], arguments=dict(call["arguments"])))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            calls.append(
                ToolCall(id=f"call-{index}", function="", arguments={}, parse_error=f"not a tool call: {error}")
            )
    message = ChatMessageAssistant(content=CALL.sub("", answer) if calls else answer, tool_calls=calls or None)
    reason = "max_tokens" if reply.finish_reason == "length" else "tool_calls" if calls else "stop"
    return ModelOutput(model=model_name, choices=[ChatCompletionChoice(message=message, stop_reason=reason)])
