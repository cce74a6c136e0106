"""What Megatron takes from CUDA extensions (Apex) where they are installed, over torch on a CPU.

Names and arguments are those of the extensions; what comes with a name only for a GPU is ignored.
Legend: T tokens, N output and K input width of a matrix [N, K].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def wgrad_gemm_accum_fp32(input_TK: Tensor, grad_TN: Tensor, main_grad_NK: Tensor) -> None:
    """Add a matrix's gradient, grad^T input, to where gradients are summed, without a copy of its own between.

    A tall product is computed as its transpose: with few columns it is a sixth slower.
    """
    if grad_TN.dtype != main_grad_NK.dtype:
        main_grad_NK.add_(grad_TN.t() @ input_TK)
    elif grad_TN.size(1) > input_TK.size(1):
        main_grad_NK.add_((input_TK.t() @ grad_TN).t())
    else:
        main_grad_NK.addmm_(grad_TN.t(), input_TK)


def multi_tensor_scale(chunk_size: int, overflow: Any, tensors: Sequence[Sequence[Tensor]], scale: float) -> None:
    """Write the tensors of the first list, scaled, over those of the second, which may be the same."""
    del chunk_size, overflow
    for source, target in zip(*tensors, strict=True):
        torch.mul(source, scale, out=target)
