"""One whole GRPO step (rollout, rewards, update, weights into the engine) against TRL's GRPOTrainer.

    python benchmarks/grpo_step.py CHECKPOINT TOKENIZER PROMPTS [--prompts 8] [--group 8] [--longest 48] [--steps 4]

Same weights, prompts, group size, limits, loss (DAPO, no KL) and a reward that costs nothing. TRL rolls out with
transformers' generate, as it does without vLLM. One thread; medians of CPU-seconds a step, the first step of each side
not counted. TRL is no dependency of this project: pip install --no-deps --target DIR trl accelerate, PYTHONPATH=DIR.
"""

import argparse
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, TrainerCallback

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.evals.exact_match import encode_fitting
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import MonitorConfig, PolicyLossConfig, RlConfig
from nanbeige_core.rl.ahead import Ahead
from nanbeige_core.rl.held_out import PassRate
from nanbeige_core.rl.monitor import Monitor
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.rewards import Rollout
from nanbeige_core.rl.source import SampledSource
from nanbeige_core.rl.stage import Stage
from nanbeige_core.rl.train import sync, train_step

RATE = 1e-6
"""Small enough that lengths stay those of the first policy."""


def reward_of(text: str) -> float:
    """Return 0 or 1 without looking: both sides pay nothing for it."""
    return float(zlib.crc32(text.encode()) % 2)


class FreeRewards:
    """Reward by `reward_of`."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def reward(
        self, rows: Sequence[PromptRow], groups: Sequence[Sequence[Completion]], *, step: int
    ) -> list[list[Rollout]]:
        """Return the groups with rewards."""
        return [
            [Rollout(row, item, text := self._engine.text(item), reward_of(text), "free") for item in group]
            for row, group in zip(rows, groups, strict=True)
        ]


def open_ours(arguments: argparse.Namespace, rows: list[PromptRow], work: Path) -> Stage:
    """Return the project's own RL stage around the free reward."""
    card = read_model_card(arguments.checkpoint)
    config = RlConfig(
        steps=arguments.steps + 1,
        prompts_per_step=arguments.prompts,
        group_size=arguments.group,
        learning_rate=RATE,
        sampling=SamplingConfig(max_new_tokens=arguments.longest),
        loss=PolicyLossConfig(mask_truncated=False),
    )
    runtime = Runtime(micro_batch_size=arguments.rows)
    trainer = Trainer.open(
        model=card.model,
        vocab_size=card.vocab_size,
        optimizer=config.optimizer,
        schedule=LrSchedule(peak=RATE, total=config.steps),
        runtime=runtime,
        seed=1,
        weights=arguments.checkpoint / "weights",
    )
    engine = TransformersEngine.open(arguments.checkpoint, arguments.tokenizer)
    prompts = encode_fitting(
        engine.tokenizer, rows, window=engine.window, max_new_tokens=config.sampling.max_new_tokens
    )
    source = SampledSource(
        engine, FreeRewards(engine), prompts, config.sampling, config.prompts_per_step, config.group_size, config.seed
    )
    inputs = {"checkpoint": InputArtifact("checkpoint", Kind.CHECKPOINT, "benchmark", arguments.checkpoint)}
    job = Job("rl_benchmark", config, runtime, inputs, work, work)
    # nothing is held out here: the measurement is there for the types alone
    held_out = PassRate(engine, engine.tokenizer, [], config.sampling, None, samples=1)  # type: ignore[arg-type]
    monitor = Monitor(held_out, {}, MonitorConfig(), seed=0)
    window = min(card.model.max_positions, engine.window)
    return Stage(job, config, trainer, engine, Ahead(source, engine), held_out, monitor, prompts, window)


class Clock(TrainerCallback):
    """CPU-seconds of each of TRL's optimizer steps; generation happens inside the step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.process_time() - self._begun)


def measure_trl(arguments: argparse.Namespace, engine: TransformersEngine, rows: list[PromptRow], work: Path) -> Clock:
    """Train the same steps with TRL."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model = LlamaForCausalLM(type(engine.model.config).from_dict(engine.model.config.to_dict()))
    model.load_state_dict(engine.model.state_dict())
    model.set_attn_implementation("sdpa")
    tokenizer = engine.tokenizer
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    config = GRPOConfig(
        output_dir=str(work), use_cpu=True, bf16=False, report_to=[], save_strategy="no", disable_tqdm=True,
        learning_rate=RATE, beta=0.0, loss_type="dapo", epsilon=0.2, epsilon_high=0.28, temperature=1.0, top_p=1.0,
        top_k=0, max_completion_length=arguments.longest, num_generations=arguments.group,
        per_device_train_batch_size=arguments.prompts * arguments.group, max_steps=arguments.steps + 1,
        weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, logging_steps=1000, seed=1,
    )  # fmt: skip
    clock = Clock()
    trainer = GRPOTrainer(
        model,
        lambda completions, **_: [reward_of(turns[0]["content"]) for turns in completions],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": row.prompt}]} for row in rows]),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    return clock


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("checkpoint", "tokenizer", "prompts_artifact"):
        parser.add_argument(name, type=Path)
    for name, default in (("prompts", 8), ("group", 8), ("longest", 48), ("steps", 4), ("rows", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = load_prompts(arguments.prompts_artifact, splits={"rl"}, limit=arguments.prompts * (arguments.steps + 1))
    with tempfile.TemporaryDirectory() as name:
        stage = open_ours(arguments, rows, Path(name))
        sync(stage)
        ours: list[float] = []
        entries: list[dict[str, float]] = []
        for step in range(arguments.steps + 1):
            begun = time.process_time()
            entries.append(train_step(stage, step))
            ours.append(time.process_time() - begun)
        theirs = measure_trl(
            arguments, TransformersEngine.open(arguments.checkpoint, arguments.tokenizer), rows, Path(name)
        )
    mine, other = statistics.median(ours[1:]), statistics.median(theirs.seconds[1:])
    parts = {
        part: statistics.median(entry[f"{part}_seconds"] for entry in entries[1:])
        for part in ("rollout", "update", "sync")
    }
    whole = sum(parts.values())
    print(
        f"{arguments.prompts} prompts x {arguments.group}, limit {arguments.longest}, mean length "
        f"{statistics.mean(entry['response_tokens'] for entry in entries):.0f}: ours {mine:.2f} CPU-s a step, TRL "
        f"{other:.2f}, ratio {mine / other:.2f}"
    )
    print("ours, share of the step: " + ", ".join(f"{part} {seconds / whole:.0%}" for part, seconds in parts.items()))


if __name__ == "__main__":
    main()
