"""Seconds of work on a device: operations at a share of its peak, bytes at a share of its bandwidth, and overheads."""

from dataclasses import dataclass

from nanbeige_core.recipe.price.calibration import Calibration, Fit, spread
from nanbeige_core.recipe.price.ranges import NOTHING, Range
from nanbeige_core.recipe.price.rates import Device
from nanbeige_core.recipe.price.work import Processing, Reading, Sampling, Training, Work

PASSES = {"training": 3.0, "reading": 1.0, "decoding": 1.0}
"""A training step passes a layer forward and, at twice the work, backward."""
USABLE_MEMORY = 0.9
"""Share of a device's memory that an engine fills with weights and cache, as vLLM does."""


@dataclass(frozen=True)
class Speed:
    """How fast one device works at one precision."""

    device: Device
    calibration: Calibration | None = None

    def _fit(self, kind: str, dtype: str) -> Fit | None:
        measured = self.calibration is not None and self.calibration.dtype == dtype
        return getattr(self.calibration, kind) if measured else None

    def rate(self, kind: str, dtype: str) -> Range:
        """Return operations per second in training, reading or decoding."""
        fit = self._fit(kind, dtype)
        return spread(fit.flops_per_second) if fit else self.device.peak(dtype) * getattr(self.device, kind).range

    def layer_pass(self, kind: str, dtype: str) -> Range:
        """Return the seconds a layer costs in one pass whatever its size."""
        fit = self._fit(kind, dtype)
        return spread(fit.pass_seconds) if fit else self.device.pass_seconds.range * (PASSES[kind] / PASSES["training"])


def work_seconds(work: Work, speed: Speed, devices: int) -> Range:
    """Return the seconds that `devices` devices together need for a piece of work."""
    if isinstance(work, Processing):
        return work.core_seconds / devices
    if isinstance(work, Sampling):
        return NOTHING if work.endpoint else _sampling(work, speed, devices)
    kind = "training" if isinstance(work, Training) else "reading"
    return _passes(work, speed, kind) / devices


def _passes(work: Training | Reading, speed: Speed, kind: str) -> Range:
    model = work.decoder.model
    passes = work.tokens * (1 / work.micro_tokens)
    return work.flops / speed.rate(kind, model.dtype) + passes * model.layers * speed.layer_pass(kind, model.dtype)


def sampled_together(work: Sampling, device: Device, devices: int) -> float:
    """Return how many responses one device decodes at once: what there is, what the engine takes, what memory holds."""
    wanted = min(work.responses.expected / devices, float(device.batch))
    if device.memory is not None:
        room = device.memory.expected * USABLE_MEMORY - work.decoder.weight_bytes
        wanted = min(wanted, room / sequence_cache_bytes(work))
    return max(wanted, 1.0)


def sequence_cache_bytes(work: Sampling) -> float:
    """Return the bytes of keys and values of one whole prompt and response."""
    return (work.prompt_tokens + work.response_tokens).expected * work.decoder.cache_bytes_per_token


def _sampling(work: Sampling, speed: Speed, devices: int) -> Range:
    """Return prefill, and the slower of arithmetic and memory traffic while decoding."""
    decoder, model = work.decoder, work.decoder.model
    together = sampled_together(work, speed.device, devices)
    rounds = work.tokens / together
    computing = work.decode_flops / speed.rate("decoding", model.dtype)
    held = work.tokens * (work.prompt_tokens + work.response_tokens * 0.5)
    bandwidth = speed.device.bandwidth.range * speed.device.streaming.range
    streaming = (rounds * decoder.weight_bytes + held * decoder.cache_bytes_per_token) / bandwidth
    prefill = work.prefill_flops / speed.rate("reading", model.dtype)
    overhead = rounds * model.layers * speed.layer_pass("decoding", model.dtype)
    return (prefill + computing.at_least(streaming) + overhead) / devices
