"""What a core function may ask about the process group it runs in; all answers are right for one process too."""

from typing import Any

import torch.distributed as dist


def rank() -> int:
    """Return this process's rank, 0 when no process group exists."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks, 1 when no process group exists."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    """Wait for every rank; one barrier collective with several ranks, nothing with one."""
    if world_size() > 1:
        dist.barrier()


def gather_objects(value: Any) -> list[Any]:
    """Return every rank's `value` in rank order, on every rank (one all-gather of pickled objects)."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered
