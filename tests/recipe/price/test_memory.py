"""Memory against Megatron's published formulas, worked out by hand, and against what real layers keep."""

from collections.abc import Callable

import pytest
import torch

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import make_cross_entropy
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.price.memory import (
    Layout,
    checkpoint_bytes,
    layer_activation_bytes,
    layer_input_bytes,
    micro_rows,
    published_activation_bytes,
    published_state_bytes,
    shard_parameters,
    state_bytes,
    training_bytes,
)
from nanbeige_core.recipe.price.transformer import Decoder
from tests.megatron.conftest import open_trainer  # noqa: F401 (a fixture)
from tests.recipe.price.test_transformer import SMALL

MODEL = ModelConfig(layers=8, hidden_size=1024, query_heads=16, kv_heads=16, head_size=64, ffn_size=4096)
DECODER = Decoder(MODEL, 32_000)
# per layer: 4 * 1024^2 attention, 3 * 1024 * 4096 SwiGLU, 2 * 1024 norms
BLOCK = 8 * (4_194_304 + 12_582_912 + 2_048) + 1_024
EMBEDDING = 32_000 * 1_024
S = 2_048.0
ROWS = 2


def test_state_on_one_device_is_eighteen_bytes_a_weight() -> None:
    weights = BLOCK + 2 * EMBEDDING
    assert published_state_bytes(DECODER, Layout(), distributed_optimizer=False) == 18 * weights
    assert published_state_bytes(DECODER, Layout()) == 18 * weights
    assert published_state_bytes(DECODER, Layout(data_parallel=4)) == 9 * weights


def test_the_first_pipeline_stage_holds_one_embedding() -> None:
    layout = Layout(tensor_parallel=2, pipeline_parallel=4, data_parallel=3)
    assert shard_parameters(DECODER, layout) == (BLOCK / 4 + EMBEDDING) / 2
    assert published_state_bytes(DECODER, layout) == 10 * (BLOCK / 4 + EMBEDDING) / 2


def test_our_bf16_state_is_the_published_one() -> None:
    for layout in (Layout(), Layout(data_parallel=8), Layout(2, 2, 2)):
        assert state_bytes(DECODER, layout) == published_state_bytes(DECODER, layout)


def test_fp32_weights_need_no_second_copy() -> None:
    decoder = Decoder(MODEL.model_copy(update={"dtype": "float32"}), 32_000)
    assert state_bytes(decoder, Layout()) == 16 * decoder.parameters


def test_published_activations_with_sequence_parallelism() -> None:
    # s b h (18 + 4 * 4) a layer, 8 s b + s b h for the embedding, 4 s b h (1 + v / h) for the output; over t = 2
    layers, embedding, output = 8 * S * 1024 * 34, 8 * S + S * 1024, 4 * S * 1024 * (1 + 32_000 / 1024)
    layout = Layout(tensor_parallel=2, sequence_parallel=True)
    found = published_activation_bytes(DECODER, S, layout, micro_batches=16)
    assert found == pytest.approx((layers + embedding + output) / 2)


def test_published_activations_without_sequence_parallelism() -> None:
    # s b h (10 + 24 / t) a layer, no division of the rest, 5 % on top
    layers, embedding, output = 8 * S * 1024 * 22, 8 * S + S * 1024, 2 * (S * 32_000 / 2 + S * 1024)
    found = published_activation_bytes(DECODER, S, Layout(tensor_parallel=2), micro_batches=16)
    assert found == pytest.approx(1.05 * (layers + embedding + output))


def test_a_short_pipeline_holds_fewer_micro_batches() -> None:
    layout = Layout(pipeline_parallel=4, sequence_parallel=True)
    full = published_activation_bytes(DECODER, S, layout, micro_batches=8)
    assert published_activation_bytes(DECODER, S, layout, micro_batches=2) == pytest.approx(full / 2)


@pytest.mark.parametrize("length", [32, 64])
def test_a_layer_keeps_what_the_account_says(open_trainer: Callable[..., Trainer], length: int) -> None:  # noqa: F811
    """To the byte. The difference between two depths is one layer; weights and buffers that both share fall out."""
    kept = [
        _kept_bytes(open_trainer(model=SMALL.model_copy(update={"layers": layers}), vocab_size=128), length)
        for layers in (1, 2)
    ]
    decoder, tokens = Decoder(SMALL, 128), float(ROWS * length)
    only_unfused = {  # values a token that the layers without fused kernels keep beside the account
        "scale of both norms": 2,
        "rotary tables, half a head wide, one for the rows": 2 * SMALL.head_size / ROWS,
        "query and key before rotation, which the value's storage holds": decoder.query_width + decoder.kv_width,
        "attention's log-sum-exp": SMALL.query_heads,
        "silu's output": SMALL.ffn_size,
    }
    account = layer_activation_bytes(decoder, tokens, Layout())
    assert kept[1] - kept[0] == account + tokens * decoder.dtype_bytes * sum(only_unfused.values())


def test_a_layer_account_is_the_published_one_for_this_kind_of_layer() -> None:
    """Korthikanti et al. (arXiv 2205.05198, section 4.1): 34 s b h + 5 a s^2 b bytes of a 16-bit GPT layer.

    Of these fall away: 5 a s^2 b (flash attention keeps no scores), both dropout masks of s b h (no dropout), and
    GELU's input and output, 8 s b h each at f = 4 h; SwiGLU keeps gate, up and their product instead, 3 s b f values.
    """
    s_b_h, s_b_f = S * 1024, S * 4096
    assert layer_activation_bytes(DECODER, S, Layout()) == (34 - 2 - 16) * s_b_h + 2 * 3 * s_b_f


def test_full_recomputation_keeps_the_published_2sbh_of_a_layer() -> None:
    assert layer_input_bytes(DECODER, S, Layout(recompute=True)) == 2 * S * 1024
    split = Layout(tensor_parallel=4, sequence_parallel=True, recompute=True)
    assert layer_input_bytes(DECODER, S, split) == 2 * S * 1024 / 4


@pytest.mark.parametrize("length", [32, 64])
def test_a_recomputed_layer_keeps_its_input_to_the_byte(open_trainer: Callable[..., Trainer], length: int) -> None:  # noqa: F811
    kept = [
        _kept_bytes(
            open_trainer(
                model=SMALL.model_copy(update={"layers": layers}), vocab_size=128, runtime=Runtime(recompute=True)
            ),
            length,
        )
        for layers in (1, 2)
    ]
    assert kept[1] - kept[0] == layer_input_bytes(Decoder(SMALL, 128), float(ROWS * length), Layout(recompute=True))


def _kept_bytes(trainer: Trainer, length: int) -> int:
    """Return the bytes of the storages that autograd keeps of one micro-batch, weights left out."""
    from nanbeige_core.megatron.batch import Batch
    from nanbeige_core.megatron.model import forward_logits

    tokens = torch.randint(0, 128, (ROWS, length))
    batch = Batch(tokens, tokens, torch.ones(tokens.shape))
    weights = {weight.untyped_storage().data_ptr() for weight in trainer.model.parts[0].parameters()}
    found: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # a freed address must not be counted as the one that takes it next
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = forward_logits(trainer.model.parts[0], batch)
        make_cross_entropy(1.0)(logits, batch)
    return sum(found.values())


def test_more_tensor_parallelism_needs_less_memory() -> None:
    peaks = [
        training_bytes(DECODER, S, Layout(tensor_parallel=tp, sequence_parallel=True), micro_batches=8).expected
        for tp in (1, 2, 4, 8)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] / peaks[3] == pytest.approx(8)


def test_a_checkpoint_with_optimizer_is_sixteen_bytes_a_bf16_weight() -> None:
    assert checkpoint_bytes(DECODER, with_optimizer=False) == 2 * DECODER.parameters
    assert checkpoint_bytes(DECODER, with_optimizer=True) == 16 * DECODER.parameters


def test_a_rank_never_holds_more_rows_than_its_share_of_a_batch() -> None:
    runtime = Runtime(processes=4, tensor_parallel=2, micro_batch_size=8)
    assert [micro_rows(runtime, batch) for batch in (64, 16, 6, 1)] == [8, 8, 3, 1]
