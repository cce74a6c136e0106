"""The most that one device holds at once while a stage runs."""

import math
from collections.abc import Sequence

from nanbeige_core.contract import Runtime
from nanbeige_core.recipe.price.memory import (
    FRAGMENTATION,
    Layout,
    activation_bytes,
    logits_bytes,
    published_activation_bytes,
    published_state_bytes,
    shard_parameters,
    state_bytes,
)
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.rates import Device
from nanbeige_core.recipe.price.timing import USABLE_MEMORY, sampled_together, sequence_cache_bytes
from nanbeige_core.recipe.price.transformer import Decoder
from nanbeige_core.recipe.price.work import Reading, Sampling, Training, Work


def peak_memory(work: Sequence[Work], runtime: Runtime, device: Device) -> Range:
    """Return bytes: what stays (trained, frozen and sampled models) and the largest of what comes and goes.

    The low bound takes Megatron's published formula for state and activations where that is lower.
    """
    layout = Layout.of(runtime)
    kept, published = _state(work, layout)
    kept += sum(shard_parameters(model, layout) * model.dtype_bytes for model in _frozen(work))
    kept += sum(model.weight_bytes for model in _sampled(work))
    room = device.memory.expected * USABLE_MEMORY - kept if device.memory else math.inf
    caches = [
        # an engine takes fewer sequences at once where models leave it less room, but never less than one
        max(min(_passing(each, layout, runtime, device), room), sequence_cache_bytes(each))
        for each in work
        if isinstance(each, Sampling) and not each.endpoint
    ]
    others = [_passing(each, layout, runtime, device) for each in work if not isinstance(each, Sampling)]
    passing = max(caches + others, default=0.0)
    theirs = max((_published(each, layout) for each in work if isinstance(each, Training)), default=passing)
    expected = kept + passing
    low = min(expected, kept - published[0] + published[1] + theirs) if published[0] else expected
    return Range(low, expected, expected * FRAGMENTATION) + device.base_memory.range


def _state(work: Sequence[Work], layout: Layout) -> tuple[float, tuple[float, float]]:
    """Return the trained model's state by our account, and by ours and the published one again to swap them."""
    trained = {each.decoder for each in work if isinstance(each, Training)}
    ours = sum(state_bytes(model, layout) for model in trained)
    return ours, (ours, sum(published_state_bytes(model, layout) for model in trained))


def _frozen(work: Sequence[Work]) -> set[Decoder]:
    trains = any(isinstance(each, Training) for each in work)
    return {each.decoder for each in work if isinstance(each, Reading) and (each.frozen or not trains)}


def _sampled(work: Sequence[Work]) -> list[Decoder]:
    """Return the models that engines hold at once; checkpoints that are measured one after another count once."""
    return list({each.decoder for each in work if isinstance(each, Sampling) and not each.endpoint})


def _passing(work: Work, layout: Layout, runtime: Runtime, device: Device) -> float:
    if isinstance(work, Training):
        batches = work.tokens.expected / work.micro_tokens / layout.data_parallel
        return activation_bytes(work.decoder, work.micro_tokens, layout, micro_batches=batches)
    if isinstance(work, Reading):
        return logits_bytes(work.decoder, work.micro_tokens, layout)
    if isinstance(work, Sampling) and not work.endpoint:
        return sampled_together(work, device, runtime.processes) * sequence_cache_bytes(work)
    return 0.0


def _published(work: Training, layout: Layout) -> float:
    batches = work.tokens.expected / work.micro_tokens / layout.data_parallel
    return published_activation_bytes(work.decoder, work.micro_tokens, layout, micro_batches=batches)
