from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.frozen import FrozenModel
from nanbeige_core.megatron.model import forward_logits
from nanbeige_core.megatron.parallel import LayoutError, validate_layout
from nanbeige_core.megatron.parity import MODEL, VOCABULARY, global_batch, split_batch
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy

Open = Callable[..., Trainer]


def step(trainer: Trainer, number: int, rows: int = 8) -> Any:
    batch = global_batch(number)
    loss = make_cross_entropy(float(batch.loss_mask_BS.sum()))
    return trainer.train_step(split_batch(batch, part=0, parts=1, rows=rows), loss)


def test_the_loss_does_not_depend_on_the_micro_batch_size(open_trainer: Open) -> None:
    whole, cut = step(open_trainer(), 0), step(open_trainer(), 0, rows=2)
    assert whole.loss == pytest.approx(cut.loss, rel=1e-6)
    assert whole.grad_norm == pytest.approx(cut.grad_norm, rel=1e-5)


def test_recomputing_layers_changes_no_bit_of_a_step(open_trainer: Open) -> None:
    found: list[tuple[float, float, list[Tensor]]] = []
    for recompute in (False, True):
        trainer = open_trainer(runtime=Runtime(recompute=recompute))
        stats = [step(trainer, number) for number in range(2)][-1]
        weights = [weight.detach().clone() for part in trainer.model.parts for weight in part.parameters()]
        found.append((stats.loss, stats.grad_norm, weights))
    plain, again = found
    assert plain[:2] == again[:2]
    assert all(torch.equal(a, b) for a, b in zip(plain[2], again[2], strict=True))


@torch.no_grad()
def logits_of(trainer: Trainer, batch: Batch) -> Tensor:
    return forward_logits(trainer.model.parts[0], batch)


def test_changing_one_segment_leaves_the_logits_of_others_bit_identical(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(0)
    assert batch.segment_ids_BS is not None
    before = logits_of(trainer, batch)
    changed = batch.segment_ids_BS == 0
    tokens_BS = torch.where(changed, (batch.tokens_BS + 1) % VOCABULARY, batch.tokens_BS)
    after = logits_of(trainer, Batch(tokens_BS, batch.labels_BS, batch.loss_mask_BS, batch.segment_ids_BS))
    assert torch.equal(before[~changed], after[~changed])
    assert not torch.equal(before[changed], after[changed])


def test_a_packed_sample_has_the_logits_it_has_alone(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(1)
    row = batch.tokens_BS[:1]
    segments = torch.tensor([[0] * 12 + [1] * 20])
    packed = logits_of(trainer, Batch(row, row, torch.ones(row.shape), segments))
    alone = logits_of(trainer, Batch(row[:, 12:], row[:, 12:], torch.ones(1, 20)))
    torch.testing.assert_close(packed[:, 12:], alone, rtol=1e-5, atol=1e-6)


def test_packed_documents_have_the_loss_they_have_alone(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(1)
    row, labels, mask = batch.tokens_BS[:1], batch.labels_BS[:1], torch.ones(1, 32)
    loss = make_cross_entropy(32.0)
    packed = trainer.evaluate([Batch(row, labels, mask, torch.tensor([[0] * 12 + [1] * 20]))], loss)
    parts = [Batch(row[:, part], labels[:, part], mask[:, part]) for part in (slice(0, 12), slice(12, 32))]
    alone = [trainer.evaluate([part], loss)["loss"] for part in parts]
    assert packed["loss"] == pytest.approx(sum(alone), rel=1e-6)


def test_every_attention_is_given_the_packed_parameters_that_transformer_engine_reads(open_trainer: Open) -> None:
    """The route is the same on both devices; only the module that reads them differs."""
    trainer, seen = open_trainer(), []
    row = global_batch(1).tokens_BS[:2]
    for module in trainer.model.parts[0].modules():
        if type(module).__name__ == "SDPACoreAttention":
            module.register_forward_pre_hook(
                lambda _, arguments, named: seen.append(named["packed_seq_params"]), with_kwargs=True
            )
    logits_of(trainer, Batch(row, row, torch.ones(row.shape), torch.tensor([[0] * 12 + [1] * 20, [0] * 32])))
    assert len(seen) == MODEL.layers
    for packed in seen:
        assert (packed.qkv_format, packed.max_seqlen_q, packed.max_seqlen_kv) == ("thd", 32, 32)
        assert packed.cu_seqlens_q.tolist() == packed.cu_seqlens_kv.tolist() == [0, 12, 32, 64]
        assert packed.cu_seqlens_q.dtype == torch.int32


def test_attention_is_causal(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(1)
    tokens_BS = batch.tokens_BS.clone()
    tokens_BS[:, 20:] = 3
    before, after = logits_of(trainer, batch), logits_of(trainer, Batch(tokens_BS, batch.labels_BS, batch.loss_mask_BS))
    torch.testing.assert_close(before[:, :20], after[:, :20], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_changes_no_weight(open_trainer: Open) -> None:
    trainer = open_trainer()
    before = {name: weight.clone() for name, weight in trainer.hf_state_dict().items()}

    def broken(logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return logits.sum() * float("nan"), {}

    with pytest.raises(FloatingPointError, match="No weight was changed"):
        trainer.train_step([global_batch(0)], broken)
    assert all(torch.equal(before[name], weight) for name, weight in trainer.hf_state_dict().items())


def test_a_gradient_that_is_not_finite_changes_no_weight_though_the_loss_is(open_trainer: Open) -> None:
    trainer = open_trainer()
    before = {name: weight.clone() for name, weight in trainer.hf_state_dict().items()}

    def steep(logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return (logits - logits.detach()).abs().sum().sqrt(), {}

    with pytest.raises(FloatingPointError, match="gradient's norm is nan.*No weight was changed"):
        trainer.train_step([global_batch(0)], steep)
    assert all(torch.equal(before[name], weight) for name, weight in trainer.hf_state_dict().items())


def test_the_rate_is_read_back_from_the_optimizer(open_trainer: Open) -> None:
    trainer = open_trainer()
    rates = [step(trainer, number).lr for number in range(4)]
    assert rates == pytest.approx([trainer.schedule.rate(number + 1) for number in range(4)])


def test_evaluate_equals_the_training_loss(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(0)
    loss = make_cross_entropy(float(batch.loss_mask_BS.sum()))
    assert trainer.evaluate([batch], loss)["loss"] == pytest.approx(trainer.train_step([batch], loss).loss, rel=1e-6)


def test_log_probs_are_what_the_loss_sums(open_trainer: Open) -> None:
    trainer, batch = open_trainer(), global_batch(0)
    nll = -(trainer.log_probs([batch])[0] * batch.loss_mask_BS).sum()
    assert trainer.evaluate([batch], make_cross_entropy(1.0))["nll"] == pytest.approx(float(nll), rel=1e-5)


def test_training_on_one_batch_lowers_its_loss(open_trainer: Open) -> None:
    trainer = open_trainer()
    losses = [step(trainer, 0).loss for _ in range(15)]
    assert losses[-1] < losses[0] - 1.0


def test_a_frozen_model_has_the_logits_of_its_checkpoint(open_trainer: Open, tmp_path: Path) -> None:
    trainer, batch = open_trainer(), global_batch(0)
    trainer.save(tmp_path, tokenizer_fingerprint="t", stage="s")
    frozen = FrozenModel.open(tmp_path / "weights", runtime=Runtime())
    real = frozen.logits(batch)[..., :VOCABULARY]
    assert torch.equal(real, logits_of(trainer, batch)[..., :VOCABULARY])
    assert not real.requires_grad


@pytest.mark.parametrize(
    ("runtime", "world"),
    [(Runtime(tensor_parallel=4), 4), (Runtime(pipeline_parallel=3), 3), (Runtime(tensor_parallel=2), 3)],
)
def test_a_layout_that_does_not_divide_is_refused(runtime: Runtime, world: int) -> None:
    with pytest.raises(LayoutError, match="must divide"):
        validate_layout(MODEL, runtime, world_size=world)
