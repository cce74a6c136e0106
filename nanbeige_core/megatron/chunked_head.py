"""The output layer and a loss on its logits, a few positions at a time: full logits never exist.

One 64K sequence of fp32 logits at a vocabulary of 166144 is 43.6 GB. The custom function multiplies a chunk of hidden
states with the output matrix and asks the loss for its value and its slope at once: what stays is the gradient of the
hidden states and of the output matrix (as in Liger's fused linear losses, arXiv 2410.10989). A loop of chunks under
ordinary autograd would keep every chunk's logits until the backward pass and save nothing.

Legend: B sequence, S position, T positions in a row, C positions of a chunk, H hidden, V vocabulary, _tp local shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanbeige_core.megatron.batch import Batch


class HiddenOutput(NamedTuple):
    """What the output layer would multiply: hidden states, the same on every tp rank, and this rank's rows."""

    hidden_BSH: Tensor
    weight_VH_tp: Tensor


@dataclass(frozen=True)
class HiddenLoss:
    """A loss that is given hidden states and the output matrix instead of logits."""

    function: Callable[[HiddenOutput, Batch], tuple[Tensor, dict[str, Tensor]]]
    """(output, batch) -> (this micro-batch's contribution to the global loss, metrics to sum)."""


class ChunkPart(NamedTuple):
    """A chunk's part of the sum, and its gradient at the chunk's logits where one is wanted."""

    value: Tensor
    slope_CV_tp: Tensor | None = None


ChunkLoss = Callable[[Tensor, slice, bool], ChunkPart]
"""(logits_CV_tp, which of the T positions, whether a slope is wanted) -> its part.

Called once per chunk, outside autograd. The logits are the loss's own: it may overwrite them and return their memory
as the slope. It may note values for itself.
"""


def chunk_spans(positions: int, chunk: int) -> list[slice]:
    """Cut `positions` into chunks of at most `chunk`."""
    return [slice(start, min(start + chunk, positions)) for start in range(0, positions, chunk)]


class ChunkLogits:
    """Multiplies chunks of hidden states with an output matrix, always into the same memory."""

    def __init__(self, hidden_TH: Tensor, weight_VH_tp: Tensor, spans: Sequence[slice]) -> None:
        self._hidden_TH, self._weight_VH_tp = hidden_TH, weight_VH_tp
        longest = max((span.stop - span.start for span in spans), default=0)
        self._logits_CV_tp = weight_VH_tp.new_empty(longest, len(weight_VH_tp))

    def hidden(self, span: slice) -> Tensor:
        """Return the chunk's hidden states as the matrix product takes them (C, H)."""
        return self._hidden_TH[span].to(self._weight_VH_tp.dtype)

    @torch.no_grad()
    def __call__(self, span: slice) -> Tensor:
        """Return the chunk's logits (C, V_tp); the next call overwrites them."""
        logits_CV_tp = self._logits_CV_tp[: span.stop - span.start]
        return torch.mm(self.hidden(span), self._weight_VH_tp.t(), out=logits_CV_tp)


def chunked_head(hidden_TH: Tensor, weight_VH_tp: Tensor, spans: Sequence[slice], loss: ChunkLoss) -> Tensor:
    """Return the sum of `loss` over all chunks of logits; one chunk's logits live at a time.

    `spans` cover the positions in order. The gradient is computed in the forward pass. Collectives: those of `loss`;
    the caller sums the hidden states' gradient over tensor-parallel ranks (as the inputs of `forward_hidden` do).
    """
    wanted = torch.is_grad_enabled() and (hidden_TH.requires_grad or weight_VH_tp.requires_grad)
    return cast(Tensor, _ChunkedHead.apply(hidden_TH, weight_VH_tp, tuple(spans), loss, wanted))


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH_tp: Tensor, spans: tuple[slice, ...], loss: ChunkLoss, wanted: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(hidden_TH.dtype, torch.float32), device=hidden_TH.device)
        logits = ChunkLogits(hidden_TH, weight_VH_tp, spans)
        if not wanted:
            for span in spans:
                total += loss(logits(span), span, False).value
            return total
        grad_TH = torch.zeros_like(hidden_TH)
        grad_VH_tp = torch.zeros_like(weight_VH_tp, dtype=total.dtype)
        for span in spans:
            value, slope_CV_tp = loss(logits(span), span, True)
            assert slope_CV_tp is not None, "a chunk's loss was asked for a slope and gave none"
            slope_CV_tp = slope_CV_tp.to(weight_VH_tp.dtype)
            grad_TH[span] = slope_CV_tp @ weight_VH_tp
            if grad_VH_tp.dtype == weight_VH_tp.dtype:
                grad_VH_tp.addmm_(slope_CV_tp.t(), logits.hidden(span))
            else:
                grad_VH_tp += slope_CV_tp.t() @ logits.hidden(span)
            total += value
        ctx.save_for_backward(grad_TH, grad_VH_tp.to(weight_VH_tp.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the wrapper hides the argument's name
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        # in place, for a second copy of the output matrix's gradient would be the step's largest tensor; autograd
        # sees the change and refuses a second backward pass through a kept graph
        (scale,) = grad_outputs
        grads = ctx.saved_tensors if scale == 1 else tuple(grad.mul_(scale) for grad in ctx.saved_tensors)
        return *grads, None, None, None
