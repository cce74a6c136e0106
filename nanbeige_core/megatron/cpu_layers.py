"""The parts of a decoder layer that Transformer Engine supplies on a GPU, in plain torch.

Norm, gated activation and rotary embedding have their gradient written out: autograd would go over whole tensors
once for each factor of the norm, and concatenate and negate what are two halves of one.

Legend: S position, B sequence, T packed tokens (B * S), H query heads, G key/value heads, D head width, F feed-forward.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional


class SDPACoreAttention(torch.nn.Module):
    """Causal attention over torch's scaled_dot_product_attention, dense or packed ("thd")."""

    def __init__(
        self, config: Any, layer_number: int, attn_mask_type: Any, softmax_scale: float | None = None, **ignored: Any
    ) -> None:
        del layer_number, attn_mask_type, ignored
        super().__init__()
        if config.context_parallel_size > 1:
            raise ValueError(
                f"context_parallel_size is {config.context_parallel_size}, the CPU attention knows only 1: "
                "context parallelism needs Transformer Engine. Set it to 1."
            )
        self.scale = softmax_scale
        self.dropout = config.attention_dropout

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: Any = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attend causally; returns [S, B, H * D], or [T, H * D] when packed.

        Dense: query [S, B, H, D], key and value [S, B, G, D]. Packed: [T, H, D] and [T, G, D]; a token sees only its
        own segment because every segment is its own kernel call. No collectives.
        """
        del attn_mask_type, attention_bias
        if attention_mask is not None:
            raise ValueError("an attention mask reached the CPU attention; pass segment_ids_BS in the Batch instead")
        if packed_seq_params is not None:
            return self._packed(query, key, value, packed_seq_params.lengths)
        query_BHSD, key_BGSD, value_BGSD = (part.permute(1, 2, 0, 3) for part in (query, key, value))
        out_BHSD = self._attend(query_BHSD, key_BGSD, value_BGSD)
        return out_BHSD.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)

    def _attend(self, query_BHSD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(
            query_BHSD,
            key_BGSD,
            value_BGSD,
            is_causal=True,
            scale=self.scale,
            enable_gqa=query_BHSD.size(1) != key_BGSD.size(1),
            dropout_p=self.dropout if self.training else 0.0,
        )

    def _packed(self, query_THD: Tensor, key_TGD: Tensor, value_TGD: Tensor, lengths: list[int]) -> Tensor:
        if min(lengths) == max(lengths):
            shape = len(lengths), lengths[0], -1, query_THD.size(-1)
            rows = (part.view(shape).transpose(1, 2) for part in (query_THD, key_TGD, value_TGD))
            return self._attend(*rows).transpose(1, 2).reshape(query_THD.size(0), -1)
        # split, not slicing: the backward of a slice writes a whole [T, H, D] of zeros per segment
        parts = zip(*(cast(Any, part).split(lengths) for part in (query_THD, key_TGD, value_TGD)), strict=True)
        segments = [
            self._attend(*(part.transpose(0, 1).unsqueeze(0) for part in segment))[0].transpose(0, 1)
            for segment in parts
        ]
        return torch.cat(segments).reshape(query_THD.size(0), -1)

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nothing: attention has no weights."""
        del args, kwargs
        return {}


class CPURMSNorm(torch.nn.RMSNorm):
    """RMSNorm in few passes, with its weight marked for the gradient all-reduce of sequence parallelism."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **ignored: Any) -> None:
        del ignored
        super().__init__(hidden_size, eps)
        cast(Any, self.weight).sequence_parallel = config.sequence_parallel

    def forward(self, x: Tensor) -> Tensor:
        """Return x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in fp32; no collectives."""
        return cast(Tensor, _RMSNorm.apply(x, self.weight, self.eps))


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / sqrt(mean(x^2) + eps), N the last axis, and g the gradient of r * x * w.

    dx = r * (g * w) - x * r^3 / N * sum_N(g * w * x);  dw = sum_rows(r * g * x): both sums are products of g * x, a
    matrix, with a vector.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, eps = args
        flat, wide_weight = _wide(x.flatten(0, -2)), _wide(weight)
        norm = torch.linalg.vector_norm(flat, dim=-1, keepdim=True)
        scale = norm.square_().div_(flat.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (flat * scale).mul_(wide_weight).to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        flat, wide_weight, grad = _wide(x.flatten(0, -2)), _wide(weight), _wide(grad_outputs[0].flatten(0, -2))
        product = grad * flat
        along_x = (product @ wide_weight).unsqueeze(-1)
        grad_weight = scale.squeeze(-1) @ product
        grad_x = torch.mul(grad, wide_weight, out=product).mul_(scale)
        grad_x.addcmul_(flat, along_x * scale.pow(3), value=-1 / flat.size(-1))
        return grad_x.to(x.dtype).view(x.shape), grad_weight.to(weight.dtype), None


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


class SwiGLU(torch.nn.Module):
    """silu(first half) times second half of the last axis, [..., 2F] to [..., F]."""

    def __init__(self, config: Any) -> None:
        del config
        super().__init__()

    def forward(self, gate_up: Tensor) -> Tensor:
        """Return the gated activation; no collectives."""
        return cast(Tensor, _SwiGLU.apply(gate_up))

    def sharded_state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return nothing: an activation has no weights."""
        del args, kwargs
        return {}


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        (gate_up,) = args
        gate, up = gate_up.chunk(2, dim=-1)
        activated = functional.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        grad = torch.empty_like(gate_up)
        grad_gate, grad_up = grad.chunk(2, dim=-1)
        torch.mul(grad_outputs[0], activated, out=grad_up)
        torch.mul(grad_outputs[0], up, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad


def rotate(
    t: Tensor,
    freqs: Tensor,
    rotary_interleaved: bool = False,
    multi_latent_attention: bool = False,
    mscale: float = 1.0,
) -> Tensor:
    """Apply the rotary embedding in place of Megatron's `_apply_rotary_pos_emb_bshd`, over whole heads in halves.

    `t` is [S, ..., D] and `freqs` [S, 1, 1, D] with equal halves.
    """
    other = rotary_interleaved or multi_latent_attention or freqs.size(-1) != t.size(-1)
    assert not other, "the Llama form of RoPE was expected"
    half = freqs[..., : freqs.size(-1) // 2]
    return cast(Tensor, _Rotate.apply(t, (half.cos() * mscale).to(t.dtype), (half.sin() * mscale).to(t.dtype)))


def rotate_packed(t: Tensor, cu_seqlens: Tensor, freqs: Tensor, *, cp_group: Any = None, **form: Any) -> Tensor:
    """Apply the rotary embedding in place of Megatron's `_apply_rotary_pos_emb_thd`: each segment from position 0.

    `t` is [T, H, D]; `cu_seqlens` holds where segments begin, and T; `freqs` is [longest, 1, 1, D].
    """
    del cp_group  # the CPU attention refuses context parallelism
    lengths: list[int] = cu_seqlens.diff().tolist()
    if min(lengths) == max(lengths):  # as in unpacked rows: they share one table
        rows = t.unflatten(0, (len(lengths), lengths[0]))
        return rotate(rows, freqs[: lengths[0]].transpose(0, 1), **form).flatten(0, 1)
    return rotate(t.unsqueeze(1), torch.cat([freqs[:length] for length in lengths]), **form).squeeze(1)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        t, cos, sin = args
        ctx.save_for_backward(cos, sin)
        return _turned(t, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(grad_outputs[0], cos, -sin), None, None


def _turned(t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = t.chunk(2, dim=-1)
    turned = torch.empty_like(t, memory_format=torch.contiguous_format)
    turned_first, turned_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=turned_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=turned_second).addcmul_(first, sin)
    return turned
