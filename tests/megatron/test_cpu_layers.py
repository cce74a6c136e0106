from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nanbeige_core.megatron.cpu_layers import CPURMSNorm, SwiGLU, rotate, rotate_packed

S, B, H, D = 5, 2, 3, 8


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gated_activation_has_the_value_and_the_gradient_of_autograd() -> None:
    ours, theirs = (random(1, S, B, 2 * D).requires_grad_() for _ in range(2))
    gate, up = theirs.chunk(2, dim=-1)
    value, expected = SwiGLU(None)(ours), torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    weight = random(2, S, B, D)
    (value * weight).sum().backward(), (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("strided", [False, True])
def test_rotation_is_megatrons_and_its_gradient_passes_gradcheck(strided: bool) -> None:
    freqs = random(3, S, 1, 1, D // 2).repeat(1, 1, 1, 2)
    t = random(4, S, B, H, 2 * D)[..., :D] if strided else random(4, S, B, H, D)
    half = torch.cat((-t[..., D // 2 :], t[..., : D // 2]), dim=-1)
    torch.testing.assert_close(rotate(t, freqs), t * freqs.cos() + half * freqs.sin())
    assert torch.autograd.gradcheck(lambda part: rotate(part, freqs), (t.requires_grad_(),))


@pytest.mark.parametrize("lengths", [[5, 5, 5], [1, 6, 2, 6], [15]])
def test_packed_rotation_counts_positions_anew_in_every_segment(lengths: list[int]) -> None:
    freqs = random(5, max(lengths), 1, 1, D // 2).repeat(1, 1, 1, 2)
    t = random(6, sum(lengths), H, D)
    ends = torch.tensor([0, *lengths]).cumsum(0).int()
    expected = [rotate(part.unsqueeze(1), freqs[: len(part)]).squeeze(1) for part in t.split(lengths)]
    torch.testing.assert_close(rotate_packed(t, ends, freqs), torch.cat(expected), rtol=0, atol=0)


def norm(dtype: torch.dtype) -> CPURMSNorm:
    built = CPURMSNorm(SimpleNamespace(sequence_parallel=False), D, eps=1e-3).to(dtype)
    built.weight.data.copy_(random(7, D))
    return built


def test_the_norm_has_torchs_value_and_its_gradient_passes_gradcheck() -> None:
    ours, x = norm(torch.float64), random(8, S, B, D).requires_grad_()
    expected = torch.nn.functional.rms_norm(x, (D,), ours.weight, 1e-3)
    torch.testing.assert_close(ours(x), expected)
    weight = ours.weight

    def apply(x: Tensor, scale: Tensor) -> Tensor:
        return torch.func.functional_call(ours, {"weight": scale}, (x,))

    assert torch.autograd.gradcheck(apply, (x, weight))


def test_the_norm_of_half_precision_is_rounded_once() -> None:
    ours, x = norm(torch.bfloat16), random(9, S, B, D).bfloat16()
    wide = torch.nn.functional.rms_norm(x.float(), (D,), ours.weight.float(), 1e-3)
    torch.testing.assert_close(ours(x), wide.bfloat16(), rtol=0, atol=0)
