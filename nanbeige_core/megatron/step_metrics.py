"""What a training step cost and how it went, under the names every metric writer uses.

MFU = model FLOPs a second / peak FLOPs a second. Model FLOPs of a token are 6 times the weights that multiply it plus
12 layers width window for attention (PaLM, arXiv 2204.02311, appendix B); recomputation does not count.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import torch

from nanbeige_core.contract import Job
from nanbeige_core.launch.ranks import rank, world_size
from nanbeige_core.megatron import device
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.report.metric_writers import MetricWriter, open_writers
from nanbeige_core.resident import peak_resident_bytes

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
"""Dense bf16 FLOPs a second by a part of the device's name (makers' data sheets)."""


def flops_per_token(model: ModelConfig, *, vocab_size: int, window: int) -> float:
    """Return the FLOPs of forward and backward for one token at sequence length `window`."""
    attention = model.hidden_size * model.head_size * (2 * model.query_heads + 2 * model.kv_heads)
    layer = attention + 3 * model.hidden_size * model.ffn_size
    weights = model.layers * layer + vocab_size * model.hidden_size
    return 6.0 * weights + 12.0 * model.layers * model.query_heads * model.head_size * window


def peak_flops() -> float:
    """Return this rank's peak: by the GPU's name, or as measured by a large fp32 matrix product on a CPU."""
    if device.on_cuda():
        name = torch.cuda.get_device_name()
        return next((flops for part, flops in PEAK_FLOPS.items() if part in name), float("nan"))
    matrix = torch.ones(512, 512)
    seconds: list[float] = []
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        seconds.append(time.perf_counter() - start)
    return 2 * 512**3 / min(seconds)


def peak_memory() -> int:
    """Return the most bytes this rank has held: allocated on the GPU, resident on a CPU."""
    if device.on_cuda():
        return torch.cuda.max_memory_allocated()
    return peak_resident_bytes()


class StepMetrics:
    """Writes each step's numbers from rank 0 to the sinks of `runtime.metrics`; other ranks write nothing."""

    def __init__(self, writers: list[MetricWriter], model: ModelConfig, vocab_size: int) -> None:
        self.writers, self.model, self.vocab_size = writers, model, vocab_size
        self.peak = peak_flops() * world_size() if writers else float("nan")

    @classmethod
    def open(cls, job: Job, model: ModelConfig, vocab_size: int, *, part: str = "") -> "StepMetrics":
        """Open the job's sinks under `<stage>/<work directory>`, so that a resumed stage goes on in the same run."""
        name = str(Path(job.stage) / job.work.name / part)
        writers = open_writers(job.runtime.metrics, directory=job.cache, name=name) if rank() == 0 else []
        return cls(writers, model, vocab_size)

    def write(self, step: int, *, tokens: int, window: int, seconds: float, values: Mapping[str, float]) -> None:
        """Record one step of `tokens` tokens, all ranks together, that took `seconds`."""
        if not self.writers:
            return
        rate = tokens / seconds
        used = rate * flops_per_token(self.model, vocab_size=self.vocab_size, window=window)
        speed = {"speed/tokens_per_second": rate, "speed/mfu": used / self.peak, "memory/peak_bytes": peak_memory()}
        self.record(step, {**{f"train/{name}": value for name, value in values.items()}, **speed})

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Record values that already carry their full names."""
        for writer in self.writers:
            writer.write(step, values)

    def close(self) -> None:
        """Flush and end every sink."""
        for writer in self.writers:
            writer.close()
