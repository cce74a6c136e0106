"""A whole tiny RL stage of human preference: policy, reward model, tokenizer and prompts as artifacts on disk.

Preferences, because a random judge gives every group different rewards: each step has something to learn from.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.contract import InputArtifact, Job, Runtime
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig, SamplingConfig
from nanbeige_core.recipe.configs.rl import HeldOutConfig, PolicyLossConfig, RlConfig
from nanbeige_core.rl.judge import VERDICT_FILE, verdict_tokens
from nanbeige_core.rl.prompts import FILE, PromptRow
from tests.generate.making import tokenizer

MODEL = ModelConfig(
    layers=2, hidden_size=32, query_heads=4, kv_heads=2, head_size=8, ffn_size=48, max_positions=256,
    initializer_range=0.3, dtype="float32",
)  # fmt: skip
PROMPTS, STEPS = 6, 5
CONFIG = RlConfig(
    domain="preference",
    steps=STEPS,
    prompts_per_step=2,
    group_size=4,
    learning_rate=1e-2,
    # a random policy hardly ever stops by itself
    loss=PolicyLossConfig(mask_truncated=False),
    sampling=SamplingConfig(max_new_tokens=8),
    heldout=HeldOutConfig(samples=1),
    probe_tolerance=1e-3,
)


def save_model(directory: Path, seed: int) -> None:
    trainer = Trainer.open(
        model=MODEL,
        vocab_size=len(tokenizer()),
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, total=1),
        runtime=Runtime(),
        seed=seed,
    )
    trainer.save(directory, tokenizer_fingerprint="t", stage="made")
    parallel.teardown()


def write_inputs(root: Path) -> None:
    """Write the artifacts of `make_job` below `root`."""
    torch.set_num_threads(1)
    parallel.teardown()
    for number, name in enumerate(("checkpoint", "reward_model")):
        (root / name).mkdir(parents=True)
        save_model(root / name, seed=number)
    first, second = verdict_tokens(tokenizer())
    (root / "reward_model" / VERDICT_FILE).write_text(json.dumps({"token_a": first, "token_b": second}))
    tokenizer().save_pretrained(root / "tokenizer")
    (root / "prompts").mkdir()
    rows = [
        PromptRow(f"{split}{index}", "general", split, "en", f"Say {index}?", "", "Yes.", "judge", "{}", "test")
        for split, count in (("rl", PROMPTS), ("heldout", 2))
        for index in range(count)
    ]
    pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows]), root / "prompts" / FILE)


def make_job(
    root: Path,
    work: Path,
    config: RlConfig = CONFIG,
    *,
    checkpoint_seconds: float = 1e-6,
    progress: Callable[[float, str], None] = lambda done, text: None,
) -> Job:
    """Return the stage over the artifacts below `root`; every step leaves a resume point by default."""
    kinds = {
        "checkpoint": Kind.CHECKPOINT,
        "reward_model": Kind.REWARD_MODEL,
        "tokenizer": Kind.TOKENIZER,
        "prompts": Kind.PROMPT_SET,
    }
    work.mkdir(parents=True, exist_ok=True)
    return Job(
        stage="rl_preference",
        config=config,
        runtime=Runtime(micro_batch_size=4, checkpoint_seconds=checkpoint_seconds),
        inputs={name: InputArtifact(name, kind, f"made-{name}", root / name) for name, kind in kinds.items()},
        work=work,
        cache=root,
        progress=progress,
    )
