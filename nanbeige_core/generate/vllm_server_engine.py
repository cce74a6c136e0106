"""A vLLM server as the policy's engine: rollouts on devices of their own, weights sent before each of them.

Prompts go as token ids, so nothing depends on the server's chat template. New weights are left as a file in a
directory that trainer and server both see, and the server's workers are told to load it (`vllm_worker`); rank 0 alone
sends. How the server is started stands in docs/how-to/cluster.md.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.openai_engine import OpenAIEngine
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.token_engine import TokenEngine
from nanbeige_core.generate.transformers_engine import STOP_TOKEN
from nanbeige_core.generate.vllm_engine import save_state, shared_memory
from nanbeige_core.launch.ranks import barrier, gather_objects, rank
from nanbeige_core.recipe.configs.base import SamplingConfig

SECONDS = 3600.0
"""Longest wait for one prompt's responses, or for weights to be loaded."""
REQUESTS = 256
"""Prompts that are at the server at once: it batches them itself."""


class VllmServerEngine(TokenEngine):
    """Sample from a vLLM server that takes weights through its development routes."""

    def __init__(
        self, base_url: str, tokenizer: PreTrainedTokenizerFast, *, window: int, directory: Path | None = None
    ) -> None:
        """Ask the server at `base_url` (ending in /v1) what it serves.

        Raises RuntimeError when nothing answers there, or a model with a shorter window than `window` does.
        """
        self._root = base_url.rstrip("/").removesuffix("/v1")
        self._directory = directory
        self._client = httpx.Client(base_url=self._root, timeout=SECONDS)
        self.tokenizer = tokenizer
        self.stop_id = int(tokenizer.convert_tokens_to_ids(STOP_TOKEN))  # pyright: ignore[reportArgumentType]
        self._window, self._version, self._held = window, 0, ""
        (served,) = self._ask("GET", "/v1/models")["data"][:1]
        if served.get("max_model_len", window) < window:
            raise RuntimeError(
                f"{self._root} serves {served['id']} with a window of {served['max_model_len']} tokens, expected "
                f"{window}, the policy's. Start it with --max-model-len {window}."
            )
        self._completions = OpenAIEngine(
            f"{self._root}/v1", served["id"], timeout_seconds=SECONDS, concurrency=REQUESTS, window=window
        )

    @classmethod
    def open(cls, checkpoint_dir: Path, tokenizer_dir: Path, runtime: Runtime) -> Self:
        """Connect to `runtime.policy_url` and give it the weights of a Checkpoint artifact; collective over ranks."""
        from nanbeige_core.megatron.convert import load_hf_state
        from nanbeige_core.megatron.weights import read_model_card

        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
        card = read_model_card(checkpoint_dir)
        directory = Path(runtime.policy_directory) if runtime.policy_directory else None
        engine = cls(runtime.policy_url, tokenizer, window=card.model.max_positions, directory=directory)
        engine.update_weights(load_hf_state(checkpoint_dir) if rank() == 0 else {}, 0)
        return engine

    @property
    def version(self) -> int:
        """Return the version of the weights last sent."""
        return self._version

    @property
    def window(self) -> int:
        """Return the longest prompt and response together, in tokens."""
        return self._window

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Send the weights from rank 0 and forget cached prefixes; collective over all ranks.

        Raises RuntimeError when the server cannot load them.
        """
        held = str(uuid4())
        if rank() == 0:
            with tempfile.NamedTemporaryFile(dir=self._directory or shared_memory(), suffix=".safetensors") as file:
                save_state(state, Path(file.name))
                self._call("load_state_file", file.name, held)
            self._ask("POST", "/reset_prefix_cache")
        barrier()
        self._held = gather_objects(held)[0]
        self._version = version

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt.

        Raises RuntimeError when the server held other weights than these at the end: somebody else uses it.
        """
        drawn = self._completions.generate(prompts, sampling, n=n, seed=seed, stop_token_ids=[self.stop_id])
        held = set(self._call("held_weights"))
        if held != {self._held}:
            raise RuntimeError(
                f"{self._root} holds other weights than version {self._version}, which this stage gave it: its "
                "responses may be another policy's, and are not used. Another stage uses the same server; give each "
                "its own (runtime.policy_url), or run them one after the other."
            )
        return drawn

    def close(self) -> None:
        """Close the connections; the server stays."""
        self._client.close()
        self._completions.close()

    def _call(self, method: str, *arguments: str) -> list[Any]:
        """Call a method of every worker."""
        return self._ask("POST", "/collective_rpc", {"method": method, "args": list(arguments)})["results"]

    def _ask(self, verb: str, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._client.request(verb, path, json=content)
        except httpx.TransportError as error:
            raise RuntimeError(
                f"no vLLM server answers at {self._root} ({type(error).__name__}: {error}): start one there, or set "
                "runtime.policy_url to where it listens."
            ) from error
        if response.status_code != 200:
            raise RuntimeError(
                f"{self._root}{path} answered {response.status_code}: {response.text[:300]}. Weights go through vLLM's "
                "development routes: start the server with VLLM_SERVER_DEV_MODE=1 and --worker-extension-cls "
                "nanbeige_core.generate.vllm_worker.WeightReceiver, and let it see the directory of the weights "
                "(runtime.policy_directory)."
            )
        return response.json() if response.content else {}
