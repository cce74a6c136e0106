"""Convert between Megatron checkpoints and Hugging Face Llama weights, both ways, bitwise.

Megatron's full tensors (as `dist_checkpointing.load_plain_tensors` or `weights.gather_weights` give them) stack
layers as [L, ...], hold gate and up as one matrix [gate; up], and interleave query, key and value by group:
[G, H/G * D + D + D, hidden]. Legend: L layers, G key/value groups, H query heads, D head width.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanbeige_core.megatron import device, parallel
from nanbeige_core.megatron.safe_loading import refuse_code
from nanbeige_core.recipe.configs.base import ModelConfig

EMBEDDING, FINAL_NORM, OUTPUT = (
    "embedding.word_embeddings.weight",
    "decoder.final_layernorm.weight",
    "output_layer.weight",
)
LAYER = "decoder.layers."
QKV, PROJ = LAYER + "self_attention.linear_qkv.weight", LAYER + "self_attention.linear_proj.weight"
INPUT_NORM = LAYER + "self_attention.linear_qkv.layer_norm_weight"
MLP_NORM = LAYER + "mlp.linear_fc1.layer_norm_weight"
FC1, FC2 = LAYER + "mlp.linear_fc1.weight", LAYER + "mlp.linear_fc2.weight"


def _split_qkv(qkv: Tensor, model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    per_group = model.query_heads // model.kv_heads
    grouped = qkv.view(model.kv_heads, (per_group + 2) * model.head_size, -1)
    parts = grouped.split([per_group * model.head_size, model.head_size, model.head_size], dim=1)
    query, key, value = (part.reshape(-1, qkv.size(-1)) for part in parts)
    return query, key, value


def _join_qkv(parts: tuple[Tensor, ...], model: ModelConfig) -> Tensor:
    hidden = parts[0].size(-1)
    return torch.cat([part.view(model.kv_heads, -1, hidden) for part in parts], dim=1).reshape(-1, hidden)


def megatron_to_hf(full: dict[str, Tensor], model: ModelConfig, *, vocab_size: int) -> dict[str, Tensor]:
    """Return Hugging Face Llama names and tensors; padded vocabulary rows are cut off. Pure."""
    state: dict[str, Tensor] = {"model.embed_tokens.weight": full[EMBEDDING][:vocab_size]}
    for layer in range(model.layers):
        prefix = f"model.layers.{layer}."
        query, key, value = _split_qkv(full[QKV][layer], model)
        gate, up = full[FC1][layer].chunk(2, dim=0)
        state |= {
            prefix + "input_layernorm.weight": full[INPUT_NORM][layer],
            prefix + "self_attn.q_proj.weight": query,
            prefix + "self_attn.k_proj.weight": key,
            prefix + "self_attn.v_proj.weight": value,
            prefix + "self_attn.o_proj.weight": full[PROJ][layer],
            prefix + "post_attention_layernorm.weight": full[MLP_NORM][layer],
            prefix + "mlp.gate_proj.weight": gate,
            prefix + "mlp.up_proj.weight": up,
            prefix + "mlp.down_proj.weight": full[FC2][layer],
        }
    state["model.norm.weight"] = full[FINAL_NORM]
    if not model.tied_embeddings:
        state["lm_head.weight"] = full[OUTPUT][:vocab_size]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def hf_to_megatron(state: dict[str, Tensor], model: ModelConfig, *, padded_vocab_size: int) -> dict[str, Tensor]:
    """Return full Megatron tensors from Hugging Face names; padded vocabulary rows are zero. Pure."""

    def stack(name: str) -> Tensor:
        return torch.stack([state[f"model.layers.{layer}.{name}.weight"] for layer in range(model.layers)])

    def pad(table: Tensor) -> Tensor:
        return torch.nn.functional.pad(table, (0, 0, 0, padded_vocab_size - table.size(0)))

    attention = [stack(f"self_attn.{part}_proj") for part in "qkv"]
    full = {
        EMBEDDING: pad(state["model.embed_tokens.weight"]),
        INPUT_NORM: stack("input_layernorm"),
        QKV: torch.stack([_join_qkv(parts, model) for parts in zip(*attention, strict=True)]),
        PROJ: stack("self_attn.o_proj"),
        MLP_NORM: stack("post_attention_layernorm"),
        FC1: torch.cat([stack("mlp.gate_proj"), stack("mlp.up_proj")], dim=1),
        FC2: stack("mlp.down_proj"),
        FINAL_NORM: state["model.norm.weight"],
    }
    if not model.tied_embeddings:
        full[OUTPUT] = pad(state["lm_head.weight"])
    return full


def load_full_weights(weights_dir: Path) -> dict[str, Tensor]:
    """Read a weights/ directory of any layout as full tensors, without building a model."""
    device.activate()
    from megatron.core import dist_checkpointing

    parallel.ensure_process_group()
    refuse_code(weights_dir)
    loaded: Any = dist_checkpointing.load_plain_tensors(str(weights_dir))
    return loaded


def load_hf_state(checkpoint_dir: Path) -> dict[str, Tensor]:
    """Return a Checkpoint artifact's weights under Hugging Face Llama names, vocabulary unpadded.

    Works in any process; one without a process group gets one of a single rank.
    """
    from nanbeige_core.megatron.weights import read_model_card

    card = read_model_card(checkpoint_dir)
    return megatron_to_hf(load_full_weights(checkpoint_dir / "weights"), card.model, vocab_size=card.vocab_size)


def copy_into_model(module: Any, full: dict[str, Tensor]) -> None:
    """Copy full Megatron tensors into this rank's part of a model of any layout. No collectives."""
    from nanbeige_core.megatron.model import iterate_shards

    with torch.no_grad():
        for shard in iterate_shards(module):
            lead = shard.prepend_axis_num
            offsets = zip(shard.global_offset[lead:], shard.local_shape, strict=True)
            region = tuple(slice(start, start + length) for start, length in offsets)
            shard.data.copy_(full[shard.key][tuple(shard.global_offset[:lead]) + region])


def hf_config(model_json: dict[str, Any]) -> Any:
    """Return transformers' LlamaConfig for the content of a model.json.

    transformers 5 keeps the RoPE base under `rope_parameters`; `write_hf_config` adds the older top-level key.
    """
    from transformers import LlamaConfig

    config: Any = LlamaConfig(
        vocab_size=model_json["vocab_size"],
        hidden_size=model_json["hidden_size"],
        intermediate_size=model_json["ffn_size"],
        num_hidden_layers=model_json["layers"],
        num_attention_heads=model_json["query_heads"],
        num_key_value_heads=model_json["kv_heads"],
        head_dim=model_json["head_size"],
        rms_norm_eps=model_json["norm_epsilon"],
        initializer_range=model_json["initializer_range"],
        max_position_embeddings=model_json["max_positions"],
        rope_parameters={"rope_type": "default", "rope_theta": model_json["rope_theta"]},
        tie_word_embeddings=model_json["tied_embeddings"],
        attention_bias=False,
        mlp_bias=False,
        dtype=model_json["dtype"],
    )
    found = config.rope_parameters["rope_theta"]
    if found != model_json["rope_theta"]:
        raise ValueError(
            f"transformers holds rope_theta {found}, model.json says {model_json['rope_theta']}: the installed "
            "transformers reads RoPE parameters in another form; use the version this project pins."
        )
    return config


def write_hf_config(config: Any, directory: Path) -> None:
    """Write config.json with `rope_theta` at top level too, which other readers look for."""
    content = config.to_dict()
    content["architectures"] = ["LlamaForCausalLM"]
    content["rope_theta"] = config.rope_parameters["rope_theta"]
    (directory / "config.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
