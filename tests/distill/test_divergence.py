import math

import pytest
import torch

from nanbeige_core.distill.top_k import sharded_top_k, top_k_tail_kl
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron import vocab_parallel
from tests.distill.differentiable import divergence

V = 11
SHARD = VocabularyShard(V)
KINDS = ["forward_kl", "reverse_kl", "jsd"]


def logits(seed: int, *shape: int, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def naive(z_q: torch.Tensor, z_p: torch.Tensor, kind: str, mixture: float = 0.5) -> torch.Tensor:
    log_q, log_p = z_q.log_softmax(-1), z_p.log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    if kind == "forward_kl":
        return (p * (log_p - log_q)).sum(-1)
    if kind == "reverse_kl":
        return (q * (log_q - log_p)).sum(-1)
    m = (mixture * p + (1 - mixture) * q).log()
    return mixture * (p * (log_p - m)).sum(-1) + (1 - mixture) * (q * (log_q - m)).sum(-1)


def test_forward_kl_of_two_tokens_by_hand():
    z_p, z_q = torch.tensor([[[math.log(3.0), 0.0]]]), torch.zeros(1, 1, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(z_q, z_p, VocabularyShard(2)).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_naive_full_computation(kind):
    ours, theirs = (logits(1, 2, 5, V).requires_grad_() for _ in range(2))
    teacher, weight = logits(2, 2, 5, V), logits(3, 2, 5)
    value = divergence(ours, teacher, SHARD, kind=kind, mixture=0.3)
    expected = naive(theirs, teacher, kind, 0.3)
    (value * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    teacher = logits(4, 1, 3, V)
    student = logits(5, 1, 3, V).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: divergence(z, teacher, SHARD, kind=kind, temperature=1.7), (student,))


@pytest.mark.parametrize("kind", KINDS)
def test_teacher_equal_to_student_gives_zero_loss_and_zero_gradient(kind):
    student = logits(6, 1, 4, V).requires_grad_()
    value = divergence(student, student.detach().clone(), SHARD, kind=kind)
    value.sum().backward()
    assert value.abs().max() < 1e-14
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-14


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_rows_change_nothing(kind, monkeypatch):
    found = []
    for block in (vocab_parallel.CACHE_BYTES, 2 * V * 8):
        monkeypatch.setattr(vocab_parallel, "CACHE_BYTES", block)
        student, teacher = logits(7, 1, 9, V).requires_grad_(), logits(8, 1, 9, V)
        value = divergence(student, teacher, SHARD, kind=kind)
        found.append((value, torch.autograd.grad(value.sum(), student)[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_columns_take_no_mass_and_no_gradient(kind):
    student, teacher = logits(9, 1, 4, V + 5), logits(10, 1, 4, V + 5)
    padded = student.clone().requires_grad_()
    value = divergence(padded, teacher, SHARD, kind=kind)
    value.sum().backward()
    torch.testing.assert_close(value, naive(student[..., :V], teacher[..., :V], kind))
    assert padded.grad is not None
    assert padded.grad[..., V:].abs().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind):
    student = torch.tensor([[[200.0, -200.0, 0.0]]], requires_grad=True)
    value = divergence(student, torch.tensor([[[-200.0, 200.0, 0.0]]]), VocabularyShard(3), kind=kind)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()


def test_half_precision_logits_are_reduced_in_full_precision():
    student, teacher = logits(11, 1, 4, V).bfloat16(), logits(12, 1, 4, V).bfloat16()
    value = divergence(student, teacher, SHARD)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, naive(student.float(), teacher.float(), "forward_kl"))


def test_top_k_with_every_token_equals_the_full_divergence():
    student, teacher = logits(13, 1, 4, V), logits(14, 1, 4, V)
    value = top_k_tail_kl(student, sharded_top_k(teacher, SHARD, V), SHARD)
    torch.testing.assert_close(value, naive(student, teacher, "forward_kl"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_lies_between_zero_and_the_full_divergence(k):
    student, teacher = logits(15, 4, 16, V), logits(16, 4, 16, V)
    value = top_k_tail_kl(student, sharded_top_k(teacher, SHARD, k), SHARD)
    assert (value >= -1e-9).all()
    assert (value <= naive(student, teacher, "forward_kl") + 1e-9).all()


def test_top_k_sees_a_student_whose_mass_lies_elsewhere():
    teacher, student = torch.zeros(1, 1, V), torch.zeros(1, 1, V)
    teacher[..., 0], student[..., 5] = 6.0, 12.0
    student = student.requires_grad_()
    value = top_k_tail_kl(student, sharded_top_k(teacher, SHARD, 1), SHARD)
    value.sum().backward()
    assert value.item() > 5
    assert student.grad[0, 0, 0] < -0.5


def test_top_k_gradcheck():
    top, student = sharded_top_k(logits(17, 1, 3, V), SHARD, 4), logits(18, 1, 3, V).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: top_k_tail_kl(z, top, SHARD, chunk=2), (student,))


def test_top_k_of_a_padded_teacher_ignores_padding():
    teacher = logits(19, 1, 3, V + 4)
    teacher[..., V:] = 50.0
    assert sharded_top_k(teacher, SHARD, 5).ids_BSK.max() < V
