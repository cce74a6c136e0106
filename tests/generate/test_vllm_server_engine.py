"""The policy's server: the client against vLLM's routes over a real model, and against vLLM itself."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.generate.vllm_server_engine import VllmServerEngine
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.convert import hf_config
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.rl.probe import compare_engine, require_agreement
from tests.generate.making import WINDOW, engine, tokenizer
from tests.serving import JsonHandler, serving

PROMPTS = [[40, 41, 42], [50] * 12, [60, 61]]
TOLERANCE = 1e-4
SAMPLING = SamplingConfig(max_new_tokens=8)
MODEL = ModelConfig(
    layers=2, hidden_size=64, query_heads=4, kv_heads=2, head_size=32, ffn_size=96, max_positions=WINDOW,
    initializer_range=0.2, dtype="float32",
)  # fmt: skip


class Served(JsonHandler):
    """vLLM's routes over the engine of this project: the weights that come by file are really loaded and used."""

    engine: TransformersEngine
    held = ""
    window = WINDOW

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "policy", "max_model_len": type(self).window}]})

    def do_POST(self) -> None:
        content = self.read()
        kind = type(self)
        if self.path == "/reset_prefix_cache":
            self.answer({})
        elif self.path == "/collective_rpc" and content["method"] == "held_weights":
            self.answer({"results": [kind.held]})
        elif self.path == "/collective_rpc":
            path, kind.held = content["args"]
            kind.engine.update_weights(load_file(path), 0)
            self.answer({"results": [None]})
        else:
            assert content["stop_token_ids"] == [kind.engine.stop_id]
            sampling = SamplingConfig(temperature=content["temperature"], max_new_tokens=content["max_tokens"])
            (group,) = kind.engine.generate([content["prompt"]], sampling, n=content["n"], seed=content["seed"])
            choices = [
                {
                    "token_ids": item.token_ids,
                    "logprobs": {"token_logprobs": item.logprobs},
                    "finish_reason": item.finish_reason,
                }
                for item in group
            ]
            self.answer({"choices": choices})


def tokens(drawn: list[list[Completion]]) -> list[list[tuple[int, ...]]]:
    """Return the responses without log-probabilities, whose last digits depend on the batch."""
    return [[item.token_ids for item in group] for group in drawn]


@pytest.fixture
def url() -> Iterator[str]:
    Served.engine, Served.held, Served.window = engine(0), "", WINDOW
    with serving(Served) as address:
        yield address


def test_new_weights_reach_the_server_and_answer_at_once(url: str) -> None:
    served = VllmServerEngine(url, tokenizer(), window=WINDOW)
    for seed in (1, 2):
        served.update_weights(engine(seed).model.state_dict(), seed)
        greedy = SamplingConfig(temperature=0, max_new_tokens=8)
        drawn, expected = (each.generate(PROMPTS, greedy, n=1, seed=0) for each in (served, engine(seed)))
        assert tokens(drawn) == tokens(expected)
        assert drawn[0][0].logprobs == pytest.approx(expected[0][0].logprobs, abs=1e-5)
        assert served.version == seed
    served.close()


def test_a_response_depends_on_its_prompt_and_the_seed_and_never_leaves_the_window(url: str) -> None:
    served = VllmServerEngine(url, tokenizer(), window=WINDOW)
    served.update_weights(engine(1).model.state_dict(), 1)
    drawn = served.generate(PROMPTS, SAMPLING, n=4, seed=3)
    assert tokens(served.generate(PROMPTS[::-1], SAMPLING, n=4, seed=3)[::-1]) == tokens(drawn)
    assert tokens(served.generate(PROMPTS, SAMPLING, n=4, seed=4)) != tokens(drawn)
    long = served.generate([[45] * (WINDOW - 3)], SamplingConfig(max_new_tokens=40), n=2, seed=0)[0]
    assert max(len(item.token_ids) for item in long) <= 3
    (reply,) = served.chat([[{"role": "user", "content": "a"}]], SAMPLING, n=1, seed=0)[0]
    assert isinstance(reply.text, str)


def test_responses_of_somebody_else_s_weights_are_not_used(url: str) -> None:
    mine, other = (VllmServerEngine(url, tokenizer(), window=WINDOW) for _ in range(2))
    mine.update_weights(engine(1).model.state_dict(), 1)
    other.update_weights(engine(2).model.state_dict(), 1)
    with pytest.raises(RuntimeError, match="holds other weights than version 1"):
        mine.generate(PROMPTS, SAMPLING, n=1, seed=0)


def test_a_server_that_does_not_fit_or_is_not_there_is_said_with_the_remedy(url: str) -> None:
    Served.window = WINDOW // 2
    with pytest.raises(RuntimeError, match=f"--max-model-len {WINDOW}"):
        VllmServerEngine(url, tokenizer(), window=WINDOW)
    with pytest.raises(RuntimeError, match="no vLLM server answers at http://127.0.0.1:9"):
        VllmServerEngine("http://127.0.0.1:9/v1", tokenizer(), window=WINDOW)


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start vLLM's own server on random weights of the trainer's shape."""
    folder = tmp_path_factory.mktemp("served")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with torch.random.fork_rng():
        LlamaForCausalLM(hf_config({**MODEL.model_dump(), "vocab_size": len(tokenizer())})).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name",
        "policy", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--max-model-len", str(WINDOW), "--kv-cache-memory-bytes", "64M", "--logprobs-mode", "processed_logprobs",
        "--worker-extension-cls", "nanbeige_core.generate.vllm_worker.WeightReceiver",
    ]  # fmt: skip
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(1)
    assert process.poll() is None, (folder / "log").read_text()[-2000:]
    yield f"http://127.0.0.1:{port}/v1"
    process.terminate()
    process.wait(30)


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_s_own_server_and_a_megatron_trainer_agree_after_each_sync(vllm_server: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    parallel.teardown()
    trainer = Trainer.open(
        model=MODEL,
        vocab_size=len(tokenizer()),
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=5e-2, total=20),
        runtime=Runtime(micro_batch_size=2),
        seed=7,
    )
    trainer.save(tmp_path / "checkpoint", tokenizer_fingerprint="t", stage="made")
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    runtime = Runtime(engine="vllm_server", policy_url=vllm_server)
    served = open_engine(tmp_path / "checkpoint", tmp_path / "tokenizer", runtime)
    assert compare_engine(served, trainer, PROMPTS[1]).difference < TOLERANCE
    for _ in range(2):
        ids = torch.randint(0, len(tokenizer()), (2, 17))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(2, 16), None)
        trainer.train_step([batch], make_cross_entropy(32.0))
        assert compare_engine(served, trainer, PROMPTS[1]).difference > 10 * TOLERANCE
        served.update_weights(trainer.hf_state_dict(), trainer.step)
        require_agreement(served, trainer, PROMPTS[1], tolerance=TOLERANCE)
    drawn = served.generate(PROMPTS, SAMPLING, n=4, seed=1)
    assert len({item.token_ids for item in drawn[0]}) > 1
    assert tokens(served.generate(PROMPTS[::-1], SAMPLING, n=4, seed=1)[::-1]) == tokens(drawn)
    parallel.teardown()
