"""Checkpoints of a Trainer: the sealed artifact's files, and resume points that survive a kill.

A resume point is a directory `step-<n>` holding `state/` (weights and optimizer, a Megatron distributed checkpoint)
and `point.json`, written last by an atomic rename, with the size of every file: a point without it was never finished,
and one with a file cut short is passed over for the one before. Nothing in a point runs code.
"""

import json
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nanbeige_core.launch.ranks import barrier, gather_objects, rank
from nanbeige_core.megatron.safe_loading import refuse_code
from nanbeige_core.megatron.weights import (
    OPTIMIZER_FORMAT,
    ModelCard,
    read_model_card,
    save_sharded,
    write_model_card,
)
from nanbeige_core.recipe.layout import require_same_shape

if TYPE_CHECKING:
    from nanbeige_core.megatron.trainer import Trainer

KEPT = 2
"""Complete resume points kept on disk."""


def _sharded_state(trainer: "Trainer", *, loading: bool) -> dict[str, Any]:
    model_state = trainer.model.module.sharded_state_dict()
    optimizer_state = trainer.optimizer.sharded_state_dict(model_state, is_loading=loading, metadata=OPTIMIZER_FORMAT)
    return {"model": model_state, "optimizer": optimizer_state}


def _progress(trainer: "Trainer") -> dict[str, Any]:
    return {
        "step": trainer.step,
        "samples": trainer.samples,
        "trained_tokens": trainer.tokens,
        "scheduler": trainer.scheduler.state_dict(),
        "schedule": trainer.schedule.model_dump(),
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def save_checkpoint(
    trainer: "Trainer",
    directory: Path,
    *,
    tokenizer_fingerprint: str,
    state: dict[str, Any],
    with_optimizer: bool,
) -> None:
    """Write weights/, model.json and state.json into `directory`; collective.

    With `with_optimizer` also optimizer/ (moments, and the schedule's position), from which `load_optimizer` lets
    another stage continue the same run.
    """
    save_sharded({"model": trainer.model.module.sharded_state_dict()}, directory / "weights")
    if with_optimizer:
        save_sharded(_sharded_state(trainer, loading=False), directory / "optimizer")
    if rank() == 0:
        write_model_card(directory, ModelCard(trainer.config, trainer.vocab_size, tokenizer_fingerprint))
        _write_json(directory / "state.json", {"steps": trainer.step, **_progress(trainer), **state})
    barrier()


def load_optimizer(trainer: "Trainer", directory: Path) -> dict[str, Any]:
    """Continue from a Checkpoint that carries optimizer/: weights, moments, schedule position; returns state.json.

    The schedule's form comes from the trainer's own config, its position from the checkpoint. Raises ValueError when
    the recorded schedule is another one, because a phase must not change the rate, or the weights have another shape.
    """
    require_same_shape(trainer.config, read_model_card(directory).model, str(directory))
    state: dict[str, Any] = json.loads((directory / "state.json").read_text())
    _load_state(trainer, directory / "optimizer")
    _set_progress(trainer, state)
    return state


def _load_state(trainer: "Trainer", directory: Path) -> None:
    from megatron.core import dist_checkpointing

    refuse_code(directory)
    with torch.no_grad():
        loaded: Any = dist_checkpointing.load(_sharded_state(trainer, loading=True), str(directory))
        trainer.model.module.load_state_dict(loaded["model"])
        trainer.optimizer.load_state_dict(loaded["optimizer"])


def _set_progress(trainer: "Trainer", state: dict[str, Any]) -> None:
    ours = trainer.schedule.model_dump()
    if state["schedule"] != ours:
        changed = {
            name: (state["schedule"].get(name), ours[name])
            for name in ours
            if state["schedule"].get(name) != ours[name]
        }
        raise ValueError(
            f"the checkpoint was trained under another learning-rate schedule (recorded, asked for): {changed}. "
            "Phases of one run share one schedule; load weights only to start a new one."
        )
    trainer.step, trainer.samples, trainer.tokens = state["step"], state["samples"], state["trained_tokens"]
    for group in trainer.optimizer.param_groups:
        # a loaded optimizer's max_lr would beat the schedule (Megatron-LM #963)
        group["max_lr"], group["min_lr"] = trainer.schedule.peak, trainer.schedule.floor
    trainer.scheduler.num_steps = state["scheduler"]["num_steps"]
    trainer.scheduler.step(0)


def _random_state() -> dict[str, Any]:
    from megatron.core import tensor_parallel

    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": _numpy_state(),
        "python": random.getstate(),
        "tracker": tracker.get_states(),
    }


def _numpy_state() -> tuple[Any, ...]:
    """Return numpy's global state in types that a loader needs no trust for."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global state is what is restored
    return (name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest)


def _set_random_state(state: dict[str, Any]) -> None:
    from megatron.core import tensor_parallel

    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])
    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    tracker.set_states(state["tracker"])


def _complete_points(directory: Path) -> list[Path]:
    """Return the points whose files all have the sizes they were written with, oldest first."""
    points = [path.parent for path in directory.glob("step-*/point.json") if _is_whole(path)]
    return sorted(points, key=lambda path: int(path.name.removeprefix("step-")))


def _is_whole(path: Path) -> bool:
    try:
        recorded: dict[str, int] = json.loads(path.read_text())["files"]
    except (OSError, ValueError, KeyError):
        return False
    return recorded == _sizes(path.parent)


def _sizes(point: Path) -> dict[str, int]:
    files = sorted(path for path in point.rglob("*") if path.is_file() and path.name != "point.json")
    return {path.relative_to(point).as_posix(): path.stat().st_size for path in files}


def save_resume(trainer: "Trainer", directory: Path, extra: dict[str, Any]) -> None:
    """Write a resume point under `directory` and drop all but the newest KEPT; collective."""
    point = directory / f"step-{trainer.step}"
    if rank() == 0 and (point / "point.json").exists():
        (point / "point.json").unlink()
    barrier()
    save_sharded(_sharded_state(trainer, loading=False), point / "state")
    states = gather_objects(_random_state())
    if rank() == 0:
        torch.save(states, point / "random.pt")
        _write_json(point / "point.json", {**_progress(trainer), "extra": extra, "files": _sizes(point)})
        for old in _complete_points(directory)[:-KEPT]:
            shutil.rmtree(old)
    barrier()


def load_resume(trainer: "Trainer", directory: Path) -> dict[str, Any] | None:
    """Restore the newest complete point and return its `extra`, or None; collective.

    With another number of ranks than the point was written by, ranks beyond it keep their fresh random state.
    """
    points = _complete_points(directory)
    if not points:
        return None
    point = points[-1]
    content: dict[str, Any] = json.loads((point / "point.json").read_text())
    _load_state(trainer, point / "state")
    _set_progress(trainer, content)
    states: list[dict[str, Any]] = torch.load(point / "random.pt", weights_only=True)
    if rank() < len(states):
        _set_random_state(states[rank()])
    return content["extra"]
