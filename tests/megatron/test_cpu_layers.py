import pytest
import torch
from torch import Tensor

from nanbeige_core.megatron.cpu_layers import SwiGLU, rotate

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
