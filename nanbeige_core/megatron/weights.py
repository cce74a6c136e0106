"""Save, load and gather a model's weights and training state as Megatron distributed checkpoints."""

import json
import queue
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.model import iterate_shards
from nanbeige_core.megatron.safe_loading import refuse_code
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.vocabulary import padded_vocab_size

OPTIMIZER_FORMAT = {"distrib_optim_sharding_type": "fully_reshardable"}
"""Optimizer state in the shape of the weights: any other layout can load it."""


class ModelCard(NamedTuple):
    """What `model.json` beside a weights directory says."""

    model: ModelConfig
    vocab_size: int
    tokenizer_fingerprint: str


def write_model_card(directory: Path, card: ModelCard) -> None:
    """Write model.json: the ModelConfig fields plus vocabulary sizes and tokenizer fingerprint."""
    content = card.model.model_dump() | {
        "vocab_size": card.vocab_size,
        "padded_vocab_size": padded_vocab_size(card.vocab_size),
        "tokenizer_fingerprint": card.tokenizer_fingerprint,
    }
    (directory / "model.json").write_text(json.dumps(content, indent=2) + "\n")


def read_model_card(directory: Path) -> ModelCard:
    """Read model.json in a Checkpoint artifact's directory; raises FileNotFoundError with the path looked at."""
    path = directory / "model.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: a Checkpoint artifact holds model.json beside weights/")
    content = json.loads(path.read_text())
    fields = {name: content[name] for name in ModelConfig.model_fields if name in content}
    return ModelCard(ModelConfig(**fields), content["vocab_size"], content["tokenizer_fingerprint"])


def save_sharded(state: dict[str, Any], directory: Path) -> None:
    """Write a sharded state dict into `directory`, emptied first; collective over all ranks."""
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

    if rank() == 0:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    barrier()
    if getattr(filesystem_async, "_results_queue", None) is None:
        # saves here are synchronous, so a queue within the process will do; Megatron would start a manager process
        setattr(filesystem_async, "_results_queue", queue.Queue())  # noqa: B010
    dist_checkpointing.save(state, str(directory), TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1))


def load_weights(model: Any, directory: Path) -> None:
    """Load a weights-only checkpoint of any layout into `model`; collective over all ranks.

    Raises when a weight is missing or has another shape: nothing is ever left at its initial value in silence.
    """
    from megatron.core import dist_checkpointing

    if not (directory / "metadata.json").exists():
        raise FileNotFoundError(
            f"{directory} holds no metadata.json, so it is no complete Megatron checkpoint. "
            "Give the weights/ directory of a sealed Checkpoint artifact."
        )
    refuse_code(directory)
    state = {"model": model.sharded_state_dict()}
    loaded: Any = dist_checkpointing.load(state, str(directory), strict="raise_all")
    model.load_state_dict(loaded["model"])


def gather_weights(model: Any) -> dict[str, Tensor]:
    """Return every weight in full, under its checkpoint key, on every rank of the model-parallel group.

    Collective over the model-parallel group: one all-gather of names and shapes, then one broadcast per stored piece.
    Layers come stacked as [layers, ...], the gated first MLP matrix as [gate; up].
    """
    group = parallel.model_group()
    mine = {(shard.key, tuple(shard.global_offset)): shard for shard in iterate_shards(model)}
    index: list[Any] = [None] * dist.get_world_size(group)
    described = {
        key: (tuple(shard.global_shape), tuple(shard.local_shape), shard.prepend_axis_num, shard.dtype)
        for key, shard in mine.items()
    }
    dist.all_gather_object(index, described, group=group)
    owners: dict[tuple[str, tuple[int, ...]], tuple[int, Any]] = {}
    for owner, pieces in enumerate(index):
        for key, description in pieces.items():
            owners.setdefault(key, (owner, description))
    full: dict[str, Tensor] = {}
    for key, (owner, description) in sorted(owners.items(), key=lambda item: item[0]):
        _place_piece(full, key, description, mine.get(key), owner, group)
    return full


def _place_piece(
    full: dict[str, Tensor],
    key: tuple[str, tuple[int, ...]],
    description: tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype],
    shard: Any | None,
    owner: int,
    group: Any,
) -> None:
    (name, offset), (global_shape, local_shape, lead, dtype) = key, description
    some_device = shard.data.device if shard is not None else parallel.device.device()
    if dist.get_rank(group) == owner:
        assert shard is not None
        piece = shard.data.detach().contiguous()
    else:
        piece = torch.empty(local_shape, dtype=dtype, device=some_device)
    if dist.get_world_size(group) > 1:
        dist.broadcast(piece, src=dist.get_global_rank(group, owner), group=group)
    if name not in full:
        full[name] = torch.empty(global_shape, dtype=dtype, device=some_device)
    region = tuple(slice(start, start + length) for start, length in zip(offset[lead:], local_shape, strict=True))
    full[name][offset[:lead] + region] = piece
