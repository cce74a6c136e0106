"""CPU-seconds of one weight sync from Megatron into the engine, for a model of 135 M parameters, and share of a step.

    python benchmarks/weight_sync.py [--engine transformers|vllm] [--layers 30] [--repeats 5] [--prompts 0] [--group 8]

The shape is that of SmolLM2-135M, embeddings tied. Times gathering under Hugging Face names, the engine's copy, and the
probe that proves both agree, and compares with the way through a checkpoint on disk. With `--prompts` it also times one
rollout of that many random prompts and one update on it, so that the share of a step is known. vLLM needs an
environment of its own (docs/how-to/one-gpu.md).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Runtime
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.generate.transformers_engine import STOP_TOKEN
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.configs.rl import PolicyLossConfig
from nanbeige_core.rl.packing import TrainedResponse, make_batches, pack_rows
from nanbeige_core.rl.policy_update import update_policy
from nanbeige_core.rl.probe import require_agreement

VOCABULARY = 49152
PROMPT, RESPONSE = 32, 32
"""Tokens of each prompt and response of the step."""


def seconds_of(work: Callable[[], object], repeats: int, *, warm: bool = True) -> float:
    """Return the median CPU-seconds of a call, one warm-up not counted."""
    if warm:
        work()
    found: list[float] = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return statistics.median(found)


def measure_step(engine: Engine, trainer: Trainer, prompts: int, group: int) -> float:
    """Return the CPU-seconds of one rollout and one update on it."""
    ids = torch.randint(2, VOCABULARY, (prompts, PROMPT)).tolist()

    def step() -> None:
        drawn = engine.generate(ids, SamplingConfig(max_new_tokens=RESPONSE), n=group, seed=0)
        flat = [item for responses in drawn for item in responses]
        weight = 1 / sum(len(item.token_ids) for item in flat)
        rows = pack_rows(
            [TrainedResponse(*item[:3], (-1.0) ** number, weight) for number, item in enumerate(flat)],
            row_tokens=trainer.config.max_positions,
        )
        update_policy(trainer, make_batches(rows, -(-len(rows) // 4)), PolicyLossConfig(), temperature=1.0)

    return seconds_of(step, 1, warm=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    for name, default in (("layers", 30), ("repeats", 5), ("prompts", 0), ("group", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = ModelConfig(
        layers=arguments.layers, hidden_size=576, query_heads=9, kv_heads=3, head_size=64, ffn_size=1536,
        max_positions=256, tied_embeddings=True, dtype="float32",
    )  # fmt: skip
    trainer = Trainer.open(
        model=model,
        vocab_size=VOCABULARY,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-6, total=1),
        runtime=Runtime(),
        seed=0,
    )
    words = {STOP_TOKEN: 0, "<unk>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trainer.save(folder / "checkpoint", tokenizer_fingerprint="t", stage="made")
        tokenizer.save_pretrained(folder / "tokenizer")
        engine = open_engine(folder / "checkpoint", folder / "tokenizer", Runtime(engine=arguments.engine))
        parameters = sum(weight.numel() for weight in trainer.hf_state_dict().values())
        gather = seconds_of(trainer.hf_state_dict, arguments.repeats)
        sync = seconds_of(lambda: engine.update_weights(trainer.hf_state_dict(), 1), arguments.repeats)
        probe = seconds_of(lambda: require_agreement(engine, trainer, [2, 3, 4], tolerance=1e-3), arguments.repeats)
        path = folder / "model.safetensors"

        def through_disk() -> None:
            save_file({name: weight.contiguous() for name, weight in trainer.hf_state_dict().items()}, path)
            engine.update_weights(load_file(path), 1)

        disk = seconds_of(through_disk, arguments.repeats)
    print(
        f"{arguments.engine}, {parameters / 1e6:.0f} M parameters: sync {sync:.3f} CPU-s (gathering {gather:.3f}), "
        f"probe {probe:.3f}; through a file {disk:.3f}, ratio {sync / disk:.2f}"
    )
    if arguments.prompts:
        step = measure_step(engine, trainer, arguments.prompts, arguments.group)
        whole = step + sync + probe
        print(
            f"{arguments.prompts} prompts x {arguments.group} of {PROMPT} + {RESPONSE} tokens: rollout and update "
            f"{step:.1f} CPU-s; sync {sync / whole:.1%} of the step, probe {probe / whole:.1%}"
        )
    engine.close()  # before this process's groups go: vLLM destroys its own among them


if __name__ == "__main__":
    main()
