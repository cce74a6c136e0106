"""Run micro-batches through a model with Megatron's schedules: one part of it, a pipeline, or an interleaved one."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch

ForwardStep = Callable[[Iterator[Batch], Any], Any]
"""(batches, part of the model) -> (its output, score); `score(output)` is called where the output layer lies.

It returns the loss, a number of tokens, and what is to be kept of the micro-batch.
"""


def run_schedule(
    parts: Sequence[Any], micro_batches: Sequence[Batch], step: ForwardStep, *, forward_only: bool
) -> list[dict[str, Tensor]]:
    """Return what `step` keeps of each micro-batch on the last pipeline stage, an empty list on the others.

    `parts` are this rank's parts of the model; every rank of a pipeline must give the same micro-batches. Forward
    only, the parts are put into eval mode and no gradient is kept. Raises ValueError without micro-batches, or where
    their number does not suit an interleaved backward pass.
    """
    from megatron.core.pipeline_parallel import get_forward_backward_func

    if not micro_batches:
        raise ValueError("no micro-batches: every data-parallel rank needs at least one in a step")
    if forward_only:
        for part in parts:
            part.eval()
    batches = _whole_groups(micro_batches, interleaved=len(parts) > 1, forward_only=forward_only)
    rows, width = batches[0].tokens_BS.shape
    iterators = [iter(batches) for _ in parts]
    with torch.set_grad_enabled(not forward_only):
        stored = get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iterators if len(parts) > 1 else iterators[0],
            model=list(parts),
            num_microbatches=len(batches),
            seq_length=width,
            micro_batch_size=rows,
            forward_only=forward_only,
        )
    return stored[: len(micro_batches)]


def _whole_groups(micro_batches: Sequence[Batch], *, interleaved: bool, forward_only: bool) -> list[Batch]:
    """Return micro-batches the interleaved schedule takes; a forward pass repeats the last one to fill a group."""
    ranks = parallel.pipeline_size()
    missing = -len(micro_batches) % ranks if interleaved else 0
    if missing and not forward_only:
        raise ValueError(
            f"a step has {len(micro_batches)} micro-batches on each data-parallel rank, runtime.virtual_pipeline "
            f"needs a multiple of pipeline_parallel {ranks}: choose another runtime.micro_batch_size."
        )
    return [*micro_batches, *[micro_batches[-1]] * missing]
