"""Losses and gradients against other projects' own functions, where they can be imported.

Neither package is a dependency: `pip install --no-deps --target DIR trl==1.16.0 liger-kernel==0.8.5` and DIR on
PYTHONPATH run these tests.
"""

from types import SimpleNamespace

import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.distill.losses import Denominators
from nanbeige_core.distill.objective import make_dpd_loss
from nanbeige_core.distill.teaching import LocalTeaching
from nanbeige_core.distill.unlike_vocabularies import Twins, gold, uld
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput
from nanbeige_core.recipe.configs.distill import DpdConfig
from tests.distill.differentiable import divergence

V, U, H, S = 31, 23, 8, 6
BETAS = {"forward_kl": 0.0, "reverse_kl": 1.0, "jsd": 0.3}
"""TRL's beta; its mixture weighs the teacher by beta, as `mixture` does here."""


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", BETAS)
def test_divergences_are_trls(kind):
    trainer = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
    ours, theirs = (random(1, 2, S, V).requires_grad_() for _ in range(2))
    teacher = random(2, 2, S, V)
    value = divergence(ours, teacher, VocabularyShard(V), kind=kind, mixture=0.3, temperature=1.3).sum()
    expected = trainer.generalized_jsd_loss(theirs, teacher, beta=BETAS[kind], temperature=1.3, reduction="sum")
    value.backward(), expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def uld_loss(twins: Twins | None, beta: float = 0.0):
    module = pytest.importorskip("trl.experimental.gold.gold_trainer")
    loss = object.__new__(module.ULDLoss)
    torch.nn.Module.__init__(loss)
    loss.token_merge_strategy, loss.beta = "observed", beta
    loss.hybrid_matched_weight = loss.hybrid_unmatched_weight = None
    if twins is not None:
        loss._teacher_matched_ids = set(twins.teacher_M.tolist())
        loss._student_matched_ids = set(twins.student_M.tolist())
        loss.mapping_tensor = torch.full((U,), -1)
        loss.mapping_tensor[twins.teacher_M] = twins.student_M
    return loss


@pytest.mark.parametrize("kind", BETAS)
def test_gold_is_trls_hybrid_loss(kind):
    twins = Twins(torch.tensor([3, 0, 9, 30]), torch.tensor([1, 2, 7, 20]))
    ours, theirs = (random(3, S, V).requires_grad_() for _ in range(2))
    p = random(4, S, U).softmax(-1)
    value = gold(ours.softmax(-1), p, twins, kind=kind, mixture=0.3).mean()
    expected = uld_loss(twins, BETAS[kind])._compute_hybrid_uld_loss(theirs.softmax(-1), p)
    value.backward(), expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


def test_uld_without_twins_is_trls():
    q, p = random(5, S, V).softmax(-1), random(6, S, U).softmax(-1)
    loss = uld_loss(Twins(torch.tensor([], dtype=torch.long), torch.tensor([], dtype=torch.long)))
    torch.testing.assert_close(uld(q, p).mean(), loss._compute_hybrid_uld_loss(q, p))


def test_merged_spans_are_trls():
    from nanbeige_core.distill.foreign_teaching import _merge

    logits, labels = random(7, S, V), torch.tensor([4, 8, 2, 0, 30, 11])
    numbers = torch.tensor([0, 1, 1, 1, 2, 2])
    merged, _ = _merge(logits, labels, numbers, torch.tensor([0, 1, 2]))
    groups = [[0], [1, 2, 3], [4, 5]]
    expected = uld_loss(None)._merge_probabilities_with_alignment_groups(logits.softmax(-1), groups, labels.tolist())
    torch.testing.assert_close(merged, expected)


@pytest.mark.parametrize("normalise_length", [False, True])
def test_dpo_from_hidden_states_is_ligers(normalise_length):
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    parallel.initialize(Runtime(), seed=0)
    hidden, weight, reference_hidden, reference = (
        random(8, 2, S, H),
        random(9, V, H),
        random(10, 2, S, H),
        random(11, V, H),
    )
    labels = torch.randint(0, V, (2, S), generator=torch.Generator().manual_seed(12))
    ours, theirs = ([part.clone().requires_grad_() for part in (hidden, weight)] for _ in range(2))
    batch = Batch(labels, labels, torch.ones(2, S))
    batch.extra |= {
        "side_BS": torch.tensor([[1], [-1]]).expand(2, S),
        "pair_BS": torch.zeros(2, S, dtype=torch.long),
        "reference_BS": (reference_hidden @ reference.t()).log_softmax(-1).gather(-1, labels[..., None])[..., 0],
    }
    values = {"positive_weight": 0, "negative_weight": 0, "beta": 0.3, "divergence_chunk": 2}
    config = DpdConfig.model_validate(values | {"normalise_length": normalise_length})
    teacher = SimpleNamespace(hidden=lambda batch: HiddenOutput(hidden, weight))
    teaching = LocalTeaching(teacher, config, VocabularyShard(V))
    loss = make_dpd_loss(config, Denominators(1, S, S), VocabularyShard(V), teaching)
    value, _ = loss.function(HiddenOutput(*ours), batch)
    value.backward()
    dpo = liger.LigerFusedLinearDPOLoss(
        beta=0.3, compute_nll_loss=False, compiled=False, use_ref_model=True, average_log_prob=normalise_length
    )
    expected = dpo(theirs[1], theirs[0], labels, ref_input=reference_hidden, ref_weight=reference)[0]
    expected.backward()
    torch.testing.assert_close(value, expected, check_dtype=False, rtol=1e-5, atol=1e-6)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    parallel.teardown()
