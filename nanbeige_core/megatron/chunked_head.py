"""The output layer and a loss on its logits, a few positions at a time: full logits never exist.

One 64K sequence of fp32 logits at a vocabulary of 166144 is 43.6 GB. The custom function multiplies a chunk of hidden
states with the output matrix, calls the loss on that chunk's logits, and takes the gradient at once: what stays is the
gradient of the hidden states and of the output matrix. A loop of chunks under ordinary autograd would keep every
chunk's logits until the backward pass and save nothing.

Legend: B sequence, S position, T positions in a row, C positions of a chunk, H hidden, V vocabulary, _tp local shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.vocab_parallel import vocab_parallel_log_probs


class HiddenOutput(NamedTuple):
    """What the output layer would multiply: hidden states, the same on every tp rank, and this rank's rows."""

    hidden_BSH: Tensor
    weight_VH_tp: Tensor


@dataclass(frozen=True)
class HiddenLoss:
    """A loss that is given hidden states and the output matrix instead of logits."""

    function: Callable[[HiddenOutput, Batch], tuple[Tensor, dict[str, Tensor]]]
    """(output, batch) -> (this micro-batch's contribution to the global loss, metrics to sum)."""


ChunkLoss = Callable[[Tensor, slice], Tensor]
"""(logits_1CV_tp, which of the T positions) -> this chunk's part of a sum; it may note values for itself."""


def chunk_spans(positions: int, chunk: int) -> list[slice]:
    """Cut `positions` into chunks of at most `chunk`."""
    return [slice(start, min(start + chunk, positions)) for start in range(0, positions, chunk)]


def chunked_head(hidden_TH: Tensor, weight_VH_tp: Tensor, spans: Sequence[slice], loss: ChunkLoss) -> Tensor:
    """Return the sum of `loss` over all chunks of logits; one chunk's logits live at a time.

    `spans` cover the positions in order. The gradient is computed in the forward pass, so `loss` is called once per
    chunk. Collectives: those of `loss`; the caller sums the hidden states' gradient over tensor-parallel ranks (as
    the inputs of `forward_hidden` do).
    """
    wanted = torch.is_grad_enabled() and (hidden_TH.requires_grad or weight_VH_tp.requires_grad)
    return cast(Tensor, _ChunkedHead.apply(hidden_TH, weight_VH_tp, tuple(spans), loss, wanted))


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TH: Tensor, weight_VH_tp: Tensor, spans: tuple[slice, ...], loss: ChunkLoss, wanted: bool
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(hidden_TH.dtype, torch.float32), device=hidden_TH.device)
        if not wanted:
            for span in spans:
                total += loss((hidden_TH[span].to(weight_VH_tp.dtype) @ weight_VH_tp.t()).unsqueeze(0), span)
            return total
        grad_TH = torch.zeros_like(hidden_TH)
        grad_VH_tp = torch.zeros_like(weight_VH_tp, dtype=total.dtype)
        for span in spans:
            hidden_CH = hidden_TH[span].to(weight_VH_tp.dtype)
            logits_1CV_tp = (hidden_CH @ weight_VH_tp.t()).unsqueeze(0).requires_grad_()
            with torch.enable_grad():
                part = loss(logits_1CV_tp, span)
            (slope_1CV_tp,) = torch.autograd.grad(part, logits_1CV_tp)
            grad_TH[span] = slope_1CV_tp[0] @ weight_VH_tp
            if grad_VH_tp.dtype == weight_VH_tp.dtype:
                grad_VH_tp.addmm_(slope_1CV_tp[0].t(), hidden_CH)
            else:
                grad_VH_tp += slope_1CV_tp[0].t() @ hidden_CH
            total += part.detach()
        ctx.save_for_backward(grad_TH, grad_VH_tp.to(weight_VH_tp.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # the wrapper hides the argument's name
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_TH, grad_VH_tp = ctx.saved_tensors
        return grad_TH * grad_outputs[0], grad_VH_tp * grad_outputs[0], None, None, None


@torch.no_grad()
def head_log_probs(
    hidden_TH: Tensor, weight_VH_tp: Tensor, labels_T: Tensor, spans: Sequence[slice], *, vocab_size: int
) -> Tensor:
    """Return the fp32 log-probability of each label (T), without gradient; collectives of each chunk's log-softmax."""
    found_T = torch.zeros(len(labels_T), dtype=torch.promote_types(hidden_TH.dtype, torch.float32)).to(hidden_TH.device)

    def keep(logits_1CV_tp: Tensor, span: slice) -> Tensor:
        found_T[span] = vocab_parallel_log_probs(logits_1CV_tp, labels_T[span].unsqueeze(0), vocab_size)[0]
        return found_T.new_zeros(())

    chunked_head(hidden_TH, weight_VH_tp, spans, keep)
    return found_T
