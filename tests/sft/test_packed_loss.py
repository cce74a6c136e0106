import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig
from nanbeige_core.sft.chat import EncodedSample
from nanbeige_core.sft.packing import make_batches, pack_best_fit, supervised_tokens

V = 64
TINY = ModelConfig.model_validate(
    {
        "layers": 2,
        "hidden_size": 32,
        "query_heads": 4,
        "kv_heads": 2,
        "head_size": 8,
        "ffn_size": 64,
        "max_positions": 64,
        "dtype": "float32",
    }
)


def open_trainer() -> Trainer:
    return Trainer.open(
        model=TINY,
        vocab_size=V,
        optimizer=OptimizerConfig.model_validate({}),
        schedule=LrSchedule(peak=1e-3, total=10),
        runtime=Runtime(micro_batch_size=2),
        seed=3,
    )


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return open_trainer()


def samples() -> list[EncodedSample]:
    generator = torch.Generator().manual_seed(5)
    lengths = [5, 9, 12, 7, 16, 3]
    return [
        EncodedSample(torch.randint(V, (length,), generator=generator).tolist(), [0, 0] + [1] * (length - 2))
        for length in lengths
    ]


def loss(trainer: Trainer, bins: list[list[int]], micro_batch_size: int) -> float:
    batches = make_batches(samples(), bins, sequence_length=32, micro_batch_size=micro_batch_size)
    return trainer.evaluate(batches, make_cross_entropy(supervised_tokens(batches), vocab_size=V))["loss"]


def test_packed_loss_equals_unpacked_loss(trainer: Trainer):
    packed = pack_best_fit([len(sample.ids) for sample in samples()], 32)
    alone = [[index] for index in range(len(samples()))]
    assert len(packed) < len(alone)
    assert loss(trainer, packed, 2) == pytest.approx(loss(trainer, alone, 2), abs=1e-6)


def gradients(bins: list[list[int]]) -> dict[str, torch.Tensor]:
    """One step of a fresh model: the gradient of every weight, before the optimiser used it."""
    opened = open_trainer()
    batches = make_batches(samples(), bins, sequence_length=32, micro_batch_size=2)
    opened.train_step(batches, make_cross_entropy(supervised_tokens(batches), vocab_size=V))
    return {name: weight.main_grad.clone() for name, weight in opened.model.parts[0].module.named_parameters()}


def test_packed_gradient_equals_unpacked_gradient() -> None:
    packed, alone = gradients([[0, 2], [4, 1], [3, 5]]), gradients([[at] for at in range(6)])
    assert max(float(gradient.abs().max()) for gradient in alone.values()) > 1e-3
    for name, gradient in alone.items():
        torch.testing.assert_close(packed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_sample_never_sees_its_neighbours(trainer: Trainer) -> None:
    def log_probs(neighbour: EncodedSample) -> torch.Tensor:
        batches = make_batches([neighbour, samples()[2]], [[0, 1]], sequence_length=32, micro_batch_size=1)
        return trainer.log_probs(batches)[0][0]

    before, after = log_probs(samples()[0]), log_probs(EncodedSample([1, 1, 1, 1, 1], samples()[0].mask))
    first, second = slice(0, 4), slice(5, 5 + len(samples()[2].ids) - 1)
    assert not torch.equal(before[first], after[first])
    assert torch.equal(before[second], after[second])


def test_micro_batches_change_nothing(trainer: Trainer):
    alone = [[index] for index in range(len(samples()))]
    assert loss(trainer, alone, 1) == pytest.approx(loss(trainer, alone, 3), abs=1e-6)


def test_order_of_samples_changes_nothing(trainer: Trainer):
    assert loss(trainer, [[0, 1], [2, 3], [4, 5]], 1) == pytest.approx(
        loss(trainer, [[5, 4], [3, 0], [1, 2]], 1), abs=1e-6
    )


def test_empty_row_changes_nothing(trainer: Trainer):
    assert loss(trainer, [[0, 1], []], 1) == pytest.approx(loss(trainer, [[0, 1]], 1), abs=1e-6)
