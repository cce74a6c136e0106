"""Process groups and Megatron's parallel state, from `Runtime`.

The order of ranks is Megatron's: tensor parallel fastest, then data parallel, then pipeline.
"""

import atexit
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import device
from nanbeige_core.recipe.layout import LayoutError, require_divisor, validate_layout

__all__ = ["LayoutError", "validate_layout"]


def ensure_process_group() -> None:
    """Make a process group of this one process when none exists."""
    if dist.is_initialized():
        return
    directory = tempfile.mkdtemp(prefix="process-group-")
    store = FileStore(str(Path(directory) / "store"), 1)
    dist.init_process_group(device.backend(), store=store, rank=0, world_size=1)
    atexit.register(teardown)


def initialize(runtime: Runtime, *, seed: int) -> None:
    """Set Megatron's parallel state up for `runtime`; reuse it when the layout is the same.

    Collective over all ranks. Raises LayoutError when a different layout is already set up in this process.
    """
    device.activate()
    from megatron.core import parallel_state, tensor_parallel

    torch.set_num_threads(runtime.threads)
    ensure_process_group()
    wanted = (runtime.tensor_parallel, runtime.pipeline_parallel, runtime.virtual_pipeline)
    if parallel_state.model_parallel_is_initialized():
        found = (
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        )
        if found != wanted:
            raise LayoutError(
                f"this process is set up for (tensor, pipeline, virtual pipeline) {found}, {wanted} was asked for: one "
                "process has one layout. Call parallel.reset() after the last use of the first model."
            )
    else:
        require_divisor(
            wanted[0] * wanted[1], dist.get_world_size(), "the number of ranks", "tensor_parallel * pipeline_parallel"
        )
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=wanted[0],
            pipeline_model_parallel_size=wanted[1],
            virtual_pipeline_model_parallel_size=wanted[2] if wanted[2] > 1 else None,
        )
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)


def reset() -> None:
    """Forget Megatron's parallel state, keeping the process group (to change the layout in one process)."""
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()


def teardown() -> None:
    """Forget Megatron's parallel state and destroy the process group."""
    if dist.is_initialized():
        reset()
        dist.destroy_process_group()


def tensor_group() -> Any:
    """Return the tensor-parallel process group of this rank."""
    from megatron.core import parallel_state

    return parallel_state.get_tensor_model_parallel_group()


def data_group() -> Any:
    """Return the data-parallel process group of this rank."""
    from megatron.core import parallel_state

    return parallel_state.get_data_parallel_group()


def data_rank() -> int:
    """Return this rank's place among the data-parallel ranks."""
    return dist.get_rank(data_group())


def data_size() -> int:
    """Return the number of data-parallel ranks."""
    return dist.get_world_size(data_group())


def is_first_tensor_rank() -> bool:
    """Tell whether this rank holds the first shard of every split weight."""
    return dist.get_rank(tensor_group()) == 0


def pipeline_group() -> Any:
    """Return the pipeline-parallel process group of this rank."""
    from megatron.core import parallel_state

    return parallel_state.get_pipeline_model_parallel_group()


def pipeline_size() -> int:
    """Return the number of pipeline-parallel ranks."""
    return dist.get_world_size(pipeline_group())


def model_group() -> Any:
    """Return the group of all ranks that together hold one copy of the model."""
    from megatron.core import parallel_state

    return parallel_state.get_model_parallel_group()


def is_last_stage() -> bool:
    """Tell whether this rank holds the output layer."""
    from megatron.core import parallel_state

    return parallel_state.is_pipeline_last_stage()
