"""Seconds of an RL step with the next rollout beside the update (`rollout_lag` 1) against one after the other.

    python benchmarks/rollout_lag.py CHECKPOINT TOKENIZER PROMPTS [--scale 1] [--prompts 8] [--group 8] [--longest 48]

CHECKPOINT, TOKENIZER and PROMPTS are artifact directories of a run. With `--scale N` the policy is a random one N times
as wide, so that more of a step is arithmetic and less of it the interpreter's. Both sides take turns in one process;
one thread computes the update and one the rollout, so that lag 1 can use two cores and lag 0 one. Lag 0 is measured
with two threads an operation too: what else a second core is good for. Medians of wall seconds, and of CPU-seconds of
the process: lag 1 may not do less work, it may only do it at the same time. The first step of a turn is not counted.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from grpo_step import open_ours

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.base import OptimizerConfig
from nanbeige_core.rl.prompts import load_prompts
from nanbeige_core.rl.stage import Stage
from nanbeige_core.rl.train import sync, train_step


class Side(NamedTuple):
    """One way to take steps: the lag, and how many threads an operation may use."""

    lag: int
    threads: int


SIDES = {"lag 0": Side(0, 1), "lag 0, two threads": Side(0, 2), "lag 1": Side(1, 1)}


class Cost(NamedTuple):
    """What one step took, and the part of it in which nothing but sampling went on."""

    wall: float
    processor: float
    waiting: float


def widen(checkpoint: Path, scale: int, directory: Path) -> Path:
    """Save a random policy `scale` times as wide as the checkpoint's."""
    card = read_model_card(checkpoint)
    sizes = ("hidden_size", "query_heads", "kv_heads", "ffn_size")
    model = card.model.model_copy(update={name: scale * getattr(card.model, name) for name in sizes})
    trainer = Trainer.open(
        model=model,
        vocab_size=card.vocab_size,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-6, total=1),
        runtime=Runtime(),
        seed=0,
    )
    trainer.save(directory, tokenizer_fingerprint=card.tokenizer_fingerprint, stage="made")
    parallel.teardown()
    return directory


def take_turn(stage: Stage, side: Side, first: int, steps: int) -> list[Cost]:
    """Take steps in one way; the first one may find a rollout that the turn before began, and is left out."""
    torch.set_num_threads(side.threads)
    stage.config = stage.config.model_copy(update={"rollout_lag": side.lag})
    costs: list[Cost] = []
    for step in range(first, first + steps):
        wall, processor = time.monotonic(), time.process_time()
        entry = train_step(stage, step)
        costs.append(Cost(time.monotonic() - wall, time.process_time() - processor, entry["rollout_seconds"]))
    stage.ahead.wait()
    return costs[1:]


def main() -> None:
    """Let the sides take turns and print what a step of each took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("checkpoint", "tokenizer", "prompts_artifact"):
        parser.add_argument(name, type=Path)
    for name, default in (("scale", 1), ("prompts", 8), ("group", 8), ("longest", 48), ("turns", 3), ("rows", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--steps", type=int, default=4, help="steps of one turn, the first of them not counted")
    arguments = parser.parse_args()
    turn_steps = arguments.steps
    arguments.steps = arguments.turns * len(SIDES) * turn_steps
    rows = load_prompts(arguments.prompts_artifact, splits={"rl"}, limit=arguments.prompts * arguments.steps)
    costs: dict[str, list[Cost]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as name:
        if arguments.scale > 1:
            arguments.checkpoint = widen(arguments.checkpoint, arguments.scale, Path(name) / "checkpoint")
        (work := Path(name) / "work").mkdir()
        stage = open_ours(arguments, rows, work)
        sync(stage)
        first = 0
        for _ in range(arguments.turns):
            for side, kind in SIDES.items():
                costs[side] += take_turn(stage, kind, first, turn_steps)
                first += turn_steps
        size = sum(weight.numel() for weight in stage.trainer.hf_state_dict().values()) / 1e6
    print(f"{size:.1f} M parameters, {arguments.prompts} prompts x {arguments.group}, limit {arguments.longest}:")
    base = statistics.median(cost.wall for cost in costs["lag 0"])
    for side, found in costs.items():
        wall, processor, waiting = (statistics.median(column) for column in zip(*found, strict=True))
        print(
            f"  {side}: {wall:.2f} s a step, ratio {wall / base:.2f}, {processor:.2f} CPU-s, {waiting:.2f} s of it "
            "sampling alone"
        )


if __name__ == "__main__":
    main()
