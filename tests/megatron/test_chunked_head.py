from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import parallel, parity
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import (
    ChunkLoss,
    ChunkPart,
    HiddenLoss,
    HiddenOutput,
    chunk_spans,
    chunked_head,
)
from nanbeige_core.megatron.parity import global_batch, run_ranks, split_batch
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy, mask_padding, vocab_parallel_log_probs
from nanbeige_core.recipe.configs.base import OptimizerConfig

T, H, V = 7, 4, 9


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, H, generator=generator, dtype=torch.float64) for n in (T, V))
    return hidden.requires_grad_(), weight.requires_grad_(), torch.randint(0, V, (T,), generator=generator)


def entropy(logits_CV: Tensor, span: slice) -> Tensor:
    weights = torch.arange(1.0, T + 1, dtype=logits_CV.dtype)[span]
    return (weights * (logits_CV.softmax(-1) * logits_CV.log_softmax(-1)).sum(-1)).sum()


def differentiated(loss: Callable[[Tensor, slice], Tensor]) -> ChunkLoss:
    def part(logits_CV: Tensor, span: slice, wanted: bool) -> ChunkPart:
        with torch.enable_grad():
            value = loss(logits_CV.requires_grad_(wanted), span)
        slope = torch.autograd.grad(value, logits_CV)[0] if wanted else None
        logits_CV.requires_grad_(False)
        return ChunkPart(value.detach(), slope)

    return part


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_the_chunked_head_passes_gradcheck(chunk: int) -> None:
    hidden, weight, _ = inputs()
    spans = chunk_spans(T, chunk)
    assert torch.autograd.gradcheck(lambda h, w: chunked_head(h, w, spans, differentiated(entropy)), (hidden, weight))


def test_chunks_give_the_loss_of_full_logits() -> None:
    hidden, weight, _ = inputs()
    whole = entropy(hidden @ weight.t(), slice(0, T))
    torch.testing.assert_close(chunked_head(hidden, weight, chunk_spans(T, 2), differentiated(entropy)), whole)


def test_no_positions_give_zero_and_zero_gradients() -> None:
    hidden, weight, _ = inputs()
    total = chunked_head(hidden[:0], weight, [], differentiated(entropy))
    total.backward()
    assert total.item() == 0
    assert weight.grad is not None
    assert weight.grad.abs().max() == 0


def test_a_scaled_loss_scales_the_gradient_and_a_second_pass_through_the_graph_is_refused() -> None:
    hidden, weight, _ = inputs()
    spans = chunk_spans(T, 3)
    whole = entropy(hidden @ weight.t(), slice(0, T))
    expected = torch.autograd.grad(0.25 * whole, (hidden, weight))
    total = 0.25 * chunked_head(hidden, weight, spans, differentiated(entropy))
    for ours, theirs in zip(torch.autograd.grad(total, (hidden, weight), retain_graph=True), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def chunked_cross_entropy(denominator: float) -> HiddenLoss:
    def loss(output: HiddenOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        hidden, labels, mask = output.hidden_BSH.flatten(0, 1), batch.labels_BS.flatten(), batch.loss_mask_BS.flatten()

        def part(logits_CV: Tensor, span: slice) -> Tensor:
            logits = mask_padding(logits_CV.unsqueeze(0), parity.VOCABULARY)
            logp = vocab_parallel_log_probs(logits, labels[span].unsqueeze(0), parity.VOCABULARY)
            return -(logp[0] * mask[span]).sum() / denominator

        return chunked_head(hidden, output.weight_VH_tp, chunk_spans(len(labels), 11), differentiated(part)), {}

    return HiddenLoss(loss)


def two_steps(rank: int, *, chunked: bool, runtime: dict[str, Any]) -> list[tuple[float, float]]:
    """Loss and gradient norm of two steps; the norm covers the output matrix and everything below it."""
    del rank
    parallel.reset()
    trainer = Trainer.open(
        model=parity.MODEL,
        vocab_size=parity.VOCABULARY,
        optimizer=OptimizerConfig(),
        schedule=LrSchedule(peak=1e-3, total=10),
        runtime=Runtime(**runtime),
        seed=7,
    )
    found: list[tuple[float, float]] = []
    for step in range(2):
        batch = global_batch(step)
        count = float(batch.loss_mask_BS.sum())
        loss = chunked_cross_entropy(count) if chunked else make_cross_entropy(count)
        stats = trainer.train_step(split_batch(batch, part=trainer.data_rank, parts=trainer.data_size, rows=4), loss)
        found.append((stats.loss, stats.grad_norm))
    return found


def in_layouts(rank: int) -> list[list[tuple[float, float]]]:
    layouts: list[dict[str, Any]] = [
        {"processes": 2},
        {"processes": 2, "tensor_parallel": 2},
        {"processes": 2, "tensor_parallel": 2, "sequence_parallel": True},
    ]
    return [two_steps(rank, chunked=True, runtime=layout) for layout in layouts]


def test_training_from_hidden_states_equals_training_from_logits_in_every_layout(tmp_path: Any) -> None:
    torch.set_num_threads(1)
    wanted = two_steps(0, chunked=False, runtime={})
    parallel.teardown()
    for found in [two_steps(0, chunked=True, runtime={}), *run_ranks(2, in_layouts, tmp_path)[0]]:
        for ours, theirs in zip(found, wanted, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
    parallel.teardown()
