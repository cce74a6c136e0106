"""CPU-seconds of one weight sync from Megatron into the engine, for a model of 135 M parameters.

    python benchmarks/weight_sync.py [--layers 30] [--repeats 5]

The shape is that of SmolLM2-135M, embeddings tied. Times gathering under Hugging Face names, the engine's
copy, and the probe that proves both agree, and compares with the way through a checkpoint on disk.
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
from nanbeige_core.generate.transformers_engine import STOP_TOKEN, TransformersEngine
from nanbeige_core.megatron.convert import hf_config
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig
from nanbeige_core.rl.probe import require_agreement

VOCABULARY = 49152


def seconds_of(work: Callable[[], object], repeats: int) -> float:
    """Return the median CPU-seconds of a call, one warm-up not counted."""
    work()
    found: list[float] = []
    for _ in range(repeats):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return statistics.median(found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
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
    state = {name: torch.zeros_like(weight) for name, weight in trainer.hf_state_dict().items()}
    engine = TransformersEngine(state, hf_config(model.model_dump() | {"vocab_size": VOCABULARY}), tokenizer)
    parameters = sum(weight.numel() for weight in trainer.hf_state_dict().values())
    gather = seconds_of(trainer.hf_state_dict, arguments.repeats)
    sync = seconds_of(lambda: engine.update_weights(trainer.hf_state_dict(), 1), arguments.repeats)
    probe = seconds_of(lambda: require_agreement(engine, trainer, [2, 3, 4], tolerance=1e-3), arguments.repeats)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"

        def through_disk() -> None:
            save_file({name: weight.contiguous() for name, weight in trainer.hf_state_dict().items()}, path)
            engine.update_weights(load_file(path), 1)

        disk = seconds_of(through_disk, arguments.repeats)
    print(
        f"{parameters / 1e6:.0f} M parameters: sync {sync:.3f} CPU-s (gathering {gather:.3f}), probe {probe:.3f}; "
        f"through a file {disk:.3f}, ratio {sync / disk:.2f}"
    )


if __name__ == "__main__":
    main()
