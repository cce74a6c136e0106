"""What Megatron takes from CUDA extensions (Apex) where they are installed, over torch on a CPU.

Names and arguments are those of the extensions; what comes with a name only for a GPU is ignored.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def multi_tensor_scale(chunk_size: int, overflow: Any, tensors: Sequence[Sequence[Tensor]], scale: float) -> None:
    """Write the tensors of the first list, scaled, over those of the second, which may be the same."""
    del chunk_size, overflow
    for source, target in zip(*tensors, strict=True):
        torch.mul(source, scale, out=target)
