from collections.abc import Callable
from typing import Any

import pytest
import torch

from nanbeige_core.megatron import device
from nanbeige_core.megatron.model import iterate_shards
from nanbeige_core.megatron.trainer import Trainer

TRANSFORMER_ENGINE_KEYS = {
    "embedding.word_embeddings.weight",
    "decoder.layers.self_attention.linear_qkv.layer_norm_weight",
    "decoder.layers.self_attention.linear_qkv.weight",
    "decoder.layers.self_attention.linear_proj.weight",
    "decoder.layers.mlp.linear_fc1.layer_norm_weight",
    "decoder.layers.mlp.linear_fc1.weight",
    "decoder.layers.mlp.linear_fc2.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
}
"""Tensor keys of Megatron-Core 0.16.1's GPTModel under the Transformer Engine spec."""


def test_checkpoint_keys_are_those_of_transformer_engine(open_trainer: Callable[..., Trainer]) -> None:
    assert {shard.key for shard in iterate_shards(open_trainer().model.module)} == TRANSFORMER_ENGINE_KEYS


@pytest.mark.parametrize(
    ("cuda", "installed", "wanted"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_transformer_engine_needs_a_gpu_and_the_package(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, installed: bool, wanted: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object() if installed else None)
    assert device.has_transformer_engine() is wanted


def test_the_transformer_engine_spec_is_taken_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    import megatron.core.extensions.transformer_engine as extension
    import megatron.core.models.gpt.gpt_layer_specs as specs
    from megatron.core.transformer.transformer_config import TransformerConfig

    marker, norm = object(), type("Norm", (), {})
    monkeypatch.setattr(device, "has_transformer_engine", lambda: True)
    monkeypatch.setattr(specs, "get_gpt_layer_with_transformer_engine_spec", lambda: marker)
    monkeypatch.setattr(extension, "TENorm", norm, raising=False)
    config = TransformerConfig(num_layers=3, hidden_size=8, num_attention_heads=2)
    monkeypatch.setattr("megatron.core.transformer.transformer_block.get_num_layers_to_build", lambda *a, **k: 3)
    spec: Any = device.layer_spec(config)
    assert spec.layer_specs == [marker] * 3
    assert spec.layer_norm is norm


def test_other_libraries_keep_the_real_torch() -> None:
    import megatron.core.parallel_state as parallel_state
    import transformers.modeling_utils as modeling

    device.activate()
    assert modeling.torch is torch
    if not device.on_cuda():
        assert parallel_state.torch is not torch


def test_every_difference_names_both_devices() -> None:
    rows = device.differences()
    assert len(rows) >= 8
    assert all(row["cpu"] and row["cuda"] for row in rows)
