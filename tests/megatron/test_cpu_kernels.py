import pytest
import torch

from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.cpu_kernels import multi_tensor_scale, wgrad_gemm_accum_fp32
from nanbeige_core.megatron.cpu_shim import among_several


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "columns"), [(6, 3), (3, 6), (4, 4)])
def test_a_weight_gradient_is_added_to_what_is_there(rows: int, columns: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, grad = (torch.randn(9, width, generator=generator).to(dtype) for width in (columns, rows))
    summed = torch.randn(rows, columns, generator=generator)
    expected = summed + (grad.t() @ inputs).float()
    wgrad_gemm_accum_fp32(inputs, grad, summed)
    torch.testing.assert_close(summed, expected, rtol=1e-5, atol=1e-5)


def test_scaling_in_place_has_the_bits_of_a_scaled_copy() -> None:
    tensors = [torch.randn(5, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    expected = [tensor * 0.37 for tensor in tensors]
    multi_tensor_scale(0, None, [tensors, tensors], 0.37)
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(tensors, expected, strict=True))


def test_a_collective_of_one_rank_is_left_out_only_where_its_result_is_there_already() -> None:
    parallel.ensure_process_group()
    called: list[torch.Tensor] = []
    collective = among_several(lambda output, given: called.append(given))
    buffer, elsewhere = torch.ones(4), torch.ones(4)
    collective(buffer, buffer[:4])
    assert called == []
    collective(buffer, elsewhere)
    assert len(called) == 1
    parallel.teardown()
