"""Parameters and operations against real Megatron and torch's own counter."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from nanbeige_core.megatron.throughput import reading_probe, training_probe
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.price.transformer import BACKWARD_ATTENTION, Decoder, causal_pairs, packed_pairs
from tests.megatron.conftest import open_trainer  # noqa: F401 (a fixture)

REPORTED = ModelConfig()
"""The report's 3B model."""
SMALL = ModelConfig(
    layers=3, hidden_size=96, query_heads=6, kv_heads=2, head_size=24, ffn_size=200, max_positions=64, dtype="float32"
)
ROWS, LENGTH = 2, 64


@pytest.fixture
def decoder() -> Decoder:
    return Decoder(SMALL, 1000)


@pytest.fixture
def trainer(open_trainer: Callable[..., Trainer], decoder: Decoder) -> Trainer:  # noqa: F811
    return open_trainer(model=decoder.model, vocab_size=decoder.vocab_size)


def added_product(_sum: tuple[int, int], left: tuple[int, int], right: tuple[int, int], **_rest: object) -> int:
    """Return the operations of a product added to what is there, for which torch has no formula."""
    return 2 * left[0] * left[1] * right[1]


def counted(run: Callable[[], object]) -> tuple[float, float]:
    """Return the operations of matrices and of attention that torch counts while `run` runs.

    The counter knows no formula for the CPU's fused attention, and sees the products of the unfused one.
    """
    totals: list[float] = []
    for backend in (nullcontext(), sdpa_kernel(SDPBackend.MATH)):
        with backend, FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product}) as counter:
            run()
        totals.append(counter.get_total_flops())
    matrices, everything = totals
    return matrices, everything - matrices


def test_parameters_are_those_megatron_builds(trainer: Trainer, decoder: Decoder) -> None:
    assert decoder.parameters == sum(weight.numel() for weight in trainer.model.parts[0].module.parameters())


def test_the_report_s_model_has_the_parameters_its_card_states() -> None:
    model = Decoder(REPORTED, 166_144)
    assert model.parameters == pytest.approx(3.93e9, rel=2e-3)
    assert model.parameters - 2 * model.embedding_parameters == pytest.approx(3.08e9, rel=2e-3)


def test_a_training_step_executes_the_operations_that_are_counted(trainer: Trainer, decoder: Decoder) -> None:
    matrices, attention = counted(training_probe(trainer, decoder, rows=ROWS, length=LENGTH).run)
    tokens = float(ROWS * LENGTH)
    assert decoder.training_flops(tokens, 0).expected == pytest.approx(matrices, rel=0.02)
    # unfused attention computes the whole square and keeps the scores: backward is twice forward
    assert decoder.attention_flops(tokens * LENGTH).expected * 3 == pytest.approx(attention, rel=0.02)
    # the fused causal kernel skips what lies above the diagonal and computes the scores again
    causal = attention * (LENGTH + 1) / (2 * LENGTH) * (1 + BACKWARD_ATTENTION) / 3
    priced = decoder.training_flops(tokens, packed_pairs(tokens, LENGTH)).expected
    assert priced == pytest.approx(matrices + causal, rel=0.02)


def test_a_forward_pass_executes_the_operations_that_are_counted(trainer: Trainer, decoder: Decoder) -> None:
    matrices, attention = counted(reading_probe(trainer, decoder, rows=ROWS, length=LENGTH).run)
    tokens = float(ROWS * LENGTH)
    assert decoder.forward_flops(tokens, tokens * LENGTH).expected == pytest.approx(matrices + attention, rel=0.02)
    assert attention > 0.05 * matrices


def test_fused_attention_goes_back_at_two_and_a_half_times_its_way_there() -> None:
    shape = (2, 6, 64, 24)
    forward, backward = sdpa_flop_count(shape, shape, shape), sdpa_backward_flop_count(shape, shape, shape, shape)
    assert backward == BACKWARD_ATTENTION * forward


def test_drawing_tokens_one_by_one_costs_what_reading_them_at_once_does() -> None:
    model, prompt, drawn = Decoder(SMALL, 1000), 20, 12
    together = model.forward_flops(prompt + drawn, causal_pairs(prompt + drawn)).expected
    apart = model.prefill_flops(1, prompt) + model.decode_flops(1, prompt, drawn)
    # the prompt's logits are computed for its last token only
    assert apart.expected + (prompt - 1) * model.output_flops == pytest.approx(together)


def test_segments_that_do_not_see_one_another_cost_less_attention() -> None:
    assert packed_pairs(1024, 1024).expected == causal_pairs(1024).expected
    assert packed_pairs(1024, 64).expected == 16 * causal_pairs(64).expected


def test_pretraining_costs_a_little_more_than_six_operations_a_weight_and_token() -> None:
    model, tokens = Decoder(REPORTED, 166_144), 23e12
    without_lookup = model.parameters - model.embedding_parameters
    ratio = model.training_flops(tokens, packed_pairs(tokens, 4096)).expected / (6 * without_lookup * tokens)
    assert 1.0 < ratio < 1.2  # attention within 4096 tokens
    assert 6 * model.parameters * tokens == pytest.approx(5.4e23, rel=0.01)
