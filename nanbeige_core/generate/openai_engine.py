"""Any OpenAI-compatible endpoint as a chat engine: teachers, judges and served policies.

It chats and, where the server returns token ids, generates from token ids (vLLM's completions do). It cannot take
weights: the server owns them.
"""

import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import httpx
from torch import Tensor

from nanbeige_core.generate.protocol import Completion, FinishReason, Message, Reply
from nanbeige_core.generate.random_streams import vllm_seed
from nanbeige_core.recipe.configs.base import SamplingConfig

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""
WINDOW_FULL = re.compile(r"context[_ ]length|maximum model length|max_model_len", re.IGNORECASE)
"""What servers say (status 400) of a conversation that leaves no room for an answer."""


class OpenAIEngine:
    """Talk to `base_url` (ending in /v1) with bounded retries; a request is repeated whole, never continued."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "",
        timeout_seconds: float = 120.0,
        retries: int = 5,
        backoff_seconds: float = 0.5,
        concurrency: int = 8,
        window: int = 1 << 20,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=base_url.rstrip("/"), headers=headers, timeout=timeout_seconds)
        self._model = model
        self._retries = retries
        self._backoff = backoff_seconds
        self._concurrency = concurrency
        self._window = window

    def close(self) -> None:
        """Close the connection pool."""
        self._client.close()

    @property
    def version(self) -> int:
        """Return 0: the server's weights never change through this engine."""
        return 0

    @property
    def window(self) -> int:
        """Return the longest prompt and response together, as told at construction."""
        return self._window

    def text(self, completion: Completion) -> str:
        """Refuse: token ids are the server's, and so is their decoding."""
        raise NotImplementedError(
            f"{self._client.base_url} serves text; an endpoint's token ids cannot be decoded here. Use chat(), or an "
            "in-process engine (runtime.engine: transformers or vllm)."
        )

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        sampling: SamplingConfig,
        *,
        n: int,
        seed: int,
        schema: dict[str, Any] | None = None,
    ) -> list[list[Reply]]:
        """Draw `n` answers to each conversation, several requests at a time, in order.

        `schema` asks the server for answers that are JSON of that schema; whether it obeys is for the caller to check.
        A conversation longer than the model's window is answered by empty replies that end by length.
        Raises RuntimeError when the endpoint still fails after all retries, with its last answer.
        """
        requests = [
            {
                "model": self._model,
                "messages": [dict(turn) for turn in turns],
                "n": n,
                "seed": seed + index,
                **_sampling_fields(sampling),
                **({"response_format": _json_format(schema)} if schema else {}),
            }
            for index, turns in enumerate(conversations)
        ]
        return [
            [Reply(choice["message"]["content"] or "", _finish(choice)) for choice in answer["choices"]]
            for answer in self._all("/chat/completions", requests)
        ]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        n: int,
        seed: int,
        stop_token_ids: Sequence[int] = (),
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt of token ids; needs a server that returns token ids, as vLLM's does.

        Raises RuntimeError when the server answers without token ids or log-probabilities.
        """
        requests = [
            {
                "model": self._model,
                "prompt": list(prompt),
                "n": n,
                "seed": vllm_seed(prompt, seed),
                "logprobs": 0,
                "return_token_ids": True,
                **_sampling_fields(sampling),
                "max_tokens": min(sampling.max_new_tokens, self._window - len(prompt)),
                **({"stop_token_ids": list(stop_token_ids)} if stop_token_ids else {}),
            }
            for prompt in prompts
        ]
        return [
            [self._completion(prompt, choice) for choice in answer["choices"]]
            for prompt, answer in zip(prompts, self._all("/completions", requests), strict=True)
        ]

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> NoReturn:
        """Refuse: the server owns its weights."""
        del state
        raise RuntimeError(
            f"{self._client.base_url} cannot take weights version {version} through its chat interface: an RL policy "
            "has to be sampled at the trainer's weights. Set runtime.engine to transformers or vllm."
        )

    def _completion(self, prompt: Sequence[int], choice: Mapping[str, Any]) -> Completion:
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not ids or not logprobs or len(ids) != len(logprobs):
            raise RuntimeError(
                f"{self._client.base_url} answered a completion without matching token_ids and log-probabilities, both "
                "are needed to train on it. Use a server that supports return_token_ids (vLLM does), or chat()."
            )
        return Completion(tuple(prompt), tuple(ids), tuple(logprobs), _finish(choice))

    def _all(self, path: str, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(self._concurrency) as pool:
            return list(pool.map(lambda request: self._post(path, request), requests))

    def _post(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                # full jitter, so that many clients of one overloaded server do not come back together
                time.sleep(random.uniform(0, self._backoff * 2**attempt))
            try:
                response = self._client.post(path, json=dict(request))
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                return response.json()
            if response.status_code == 400 and "messages" in request and WINDOW_FULL.search(response.text):
                return {"choices": [{"message": {"content": ""}, "finish_reason": "length"}] * request["n"]}
            problem = f"status {response.status_code}: {response.text[:300]}"
            if response.status_code not in RETRIED:
                break
        raise RuntimeError(
            f"{self._client.base_url}{path.lstrip('/')} gave no answer ({problem}), expected status 200 within "
            f"{self._retries + 1} attempts. Check that the server runs and serves model {self._model!r}."
        )


def _finish(choice: Mapping[str, Any]) -> FinishReason:
    return "length" if choice.get("finish_reason") == "length" else "stop"


def _json_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _sampling_fields(sampling: SamplingConfig) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
    }
    # not part of OpenAI's own interface: sent only where it means something
    return fields | ({"top_k": sampling.top_k} if sampling.top_k else {})
