"""vLLM in process: the engine of every profile with a GPU, and of CPU runs where vLLM's CPU build is installed.

Open it after the trainer: vLLM creates a process group of its own where none exists, and the trainer's would then be
the second. Log-probabilities are `processed_logprobs`, that is at the sampling temperature.
"""

import atexit
import gc
import os
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.random_streams import vllm_seed
from nanbeige_core.generate.token_engine import TokenEngine
from nanbeige_core.generate.transformers_engine import STOP_TOKEN
from nanbeige_core.recipe.configs.base import SamplingConfig

SHARED_MEMORY = Path("/dev/shm")
CPU_CACHE_BYTES = 256 << 20
"""Key/value cache on CPU; vLLM would otherwise reserve a share of all memory."""


class VllmEngine(TokenEngine):
    """Sample with vLLM from weights given as a Hugging Face folder, and take new ones in place."""

    def __init__(self, model_dir: Path, tokenizer: PreTrainedTokenizerFast, *, window: int) -> None:
        """Start vLLM on `model_dir`; raises ModuleNotFoundError with the remedy where vLLM is not installed."""
        require_vllm()
        from vllm import LLM  # pyright: ignore

        on_gpu = torch.cuda.is_available()
        options: dict[str, Any] = {} if on_gpu else {"kv_cache_memory_bytes": CPU_CACHE_BYTES}
        self._llm: Any = LLM(
            str(model_dir),
            # float32 is both exact and several times faster than bfloat16 on CPUs without matrix units
            dtype="auto" if on_gpu else "float32",
            enforce_eager=not on_gpu,
            max_model_len=window,
            seed=0,
            logprobs_mode="processed_logprobs",
            worker_extension_cls="nanbeige_core.generate.vllm_worker.WeightReceiver",
            **external_launcher_options(),
            **options,
        )
        self.tokenizer = tokenizer
        self.stop_id = int(tokenizer.convert_tokens_to_ids(STOP_TOKEN))  # pyright: ignore[reportArgumentType]
        self._window = window
        self._version = 0
        self._shut = weakref.finalize(self, self._llm.llm_engine.engine_core.shutdown)
        # at exit before the trainer's process group goes, whose handler is older: vLLM fails when its groups went first
        atexit.register(self._shut)

    @classmethod
    def open(cls, checkpoint_dir: Path, tokenizer_dir: Path) -> "VllmEngine":
        """Convert a Checkpoint artifact to a temporary Hugging Face folder and start vLLM on it."""
        from safetensors.torch import save_file

        from nanbeige_core.megatron.convert import hf_config, load_hf_state, write_hf_config
        from nanbeige_core.megatron.weights import read_model_card

        require_vllm()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
        card = read_model_card(checkpoint_dir)
        config: LlamaConfig = hf_config({**card.model.model_dump(), "vocab_size": card.vocab_size})
        with tempfile.TemporaryDirectory(prefix="vllm-model-") as name:
            folder = Path(name)
            write_hf_config(config, folder)
            save_file(load_hf_state(checkpoint_dir), folder / "model.safetensors", metadata={"format": "pt"})
            tokenizer.save_pretrained(folder)
            return cls(folder, tokenizer, window=card.model.max_positions)

    @property
    def version(self) -> int:
        """Return the version of the weights held."""
        return self._version

    @property
    def window(self) -> int:
        """Return the longest prompt and response together, in tokens."""
        return self._window

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Hand the weights to every worker through a file in shared memory, and forget cached prefixes."""
        with tempfile.NamedTemporaryFile(dir=shared_memory(), prefix="weights-", suffix=".safetensors") as file:
            save_state(state, Path(file.name))
            self._llm.collective_rpc("load_state_file", args=(file.name,))
        self._llm.reset_prefix_cache()
        self._version = version

    def close(self) -> None:
        """Free the model and its cache, so that another one finds room."""
        self._shut()
        del self._llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt; each prompt has its own seed."""
        from vllm import SamplingParams, TokensPrompt  # pyright: ignore

        parameters: list[Any] = [
            SamplingParams(
                n=n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                max_tokens=min(sampling.max_new_tokens, self._window - len(prompt)),
                stop_token_ids=[self.stop_id],
                logprobs=0,
                seed=vllm_seed(prompt, seed),
                detokenize=False,
            )
            for prompt in prompts
        ]
        inputs: list[Any] = [TokensPrompt(prompt_token_ids=list(prompt)) for prompt in prompts]
        answers: list[Any] = self._llm.generate(inputs, parameters, use_tqdm=False)
        return [
            [to_completion(prompt, output) for output in answer.outputs]
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def save_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write weights as a safetensors file that `vllm_worker` loads."""
    from safetensors.torch import save_file

    save_file(_without_shared(state), path)


def shared_memory() -> Path:
    """Return this machine's shared memory, or its temporary directory where it has none."""
    return SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def _without_shared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous copies on the CPU, each storage once: safetensors refuses a tied head beside its embedding."""
    first = {weight.data_ptr(): name for name, weight in reversed(list(state.items()))}
    return {
        name: weight.detach().cpu().contiguous() for name, weight in state.items() if first[weight.data_ptr()] == name
    }


def to_completion(prompt: Sequence[int], output: Any) -> Completion:
    """Return vLLM's output of one sample as a Completion; the stop token is among its ids."""
    ids = tuple(output.token_ids)
    logprobs = tuple(float(candidates[token].logprob) for token, candidates in zip(ids, output.logprobs, strict=True))
    return Completion(tuple(prompt), ids, logprobs, "length" if output.finish_reason == "length" else "stop")


def external_launcher_options() -> dict[str, Any]:
    """Return what lets several launched ranks hold one vLLM each inside their own process group."""
    import torch.distributed as dist

    launched = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return {"distributed_executor_backend": "external_launcher"} if launched else {}


def require_vllm() -> None:
    """Raise ModuleNotFoundError with the remedy where vLLM is missing, and prepare its import where it is there.

    A CUDA build of torchvision beside a CPU torch makes importing vLLM fail, and nothing here needs it.
    """
    if find_spec("vllm") is None:
        raise ModuleNotFoundError(
            "runtime.engine is vllm, but vLLM is not installed in this environment. Install the extra of this project "
            "(pip install '.[vllm]') on a machine with a GPU, or set runtime.engine: transformers."
        )
    if not torch.cuda.is_available():
        sys.modules.setdefault("torchvision", None)  # pyright: ignore[reportArgumentType]
    # in process, so that weights and seeds are this process's own; vLLM offers no other switch than its environment
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
