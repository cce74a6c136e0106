"""The only module that knows the device.

On CUDA: NCCL, Transformer Engine's layers, nothing patched. On a CPU: gloo, Megatron's local layer spec with torch's
own attention and norm, and a shim that redirects Megatron's CUDA calls (`cpu_shim`). Everything else in this room is
the same code on both.
"""

import importlib
import importlib.util
import warnings
from typing import Any, Literal, cast

import torch

QUIET = (
    "Transformer Engine and Apex are not installed",
    "Apex is not installed",
    "full scope is deprecated",
    "CPU RNG state changed",
    "The .grad attribute of a Tensor that is not a leaf",
    "`load_state_dict` is deprecated and will be removed",
    "Please use DTensor instead",
    "When using async grad allreduce",
    "`torch.distributed.reduce_scatter_tensor` is deprecated",
    "`torch.distributed.all_gather_into_tensor` is deprecated",
)
"""Beginnings of Megatron warnings that no user of this project can act on."""

MODULES = (
    "megatron.core.models.gpt.gpt_layer_specs",
    "megatron.core.models.gpt.gpt_model",
    "megatron.core.distributed",
    "megatron.core.optimizer",
    "megatron.core.optimizer_param_scheduler",
    "megatron.core.pipeline_parallel",
    "megatron.core.dist_checkpointing",
    "megatron.core.datasets.indexed_dataset",
)
"""What training imports of Megatron."""

_STATE: dict[str, bool] = {"active": False}


def on_cuda() -> bool:
    """Tell whether this process trains on a GPU."""
    return torch.cuda.is_available()


def activate() -> None:
    """Make Megatron-Core importable and runnable here; idempotent, safe before a fork."""
    if _STATE["active"]:
        return
    _STATE["active"] = True
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)
    if not on_cuda():
        from nanbeige_core.megatron import cpu_shim

        cpu_shim.install()


def preload() -> None:
    """Activate, and import the parts of Megatron that training uses, so that forked ranks share one import."""
    activate()
    for name in MODULES:
        importlib.import_module(name)


def device() -> torch.device:
    """Return the device of this process's tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if on_cuda() else torch.device("cpu")


def backend() -> Literal["gloo", "nccl"]:
    """Return the name of the collective backend that fits the device."""
    return "nccl" if on_cuda() else "gloo"


def has_transformer_engine() -> bool:
    """Tell whether Transformer Engine can be imported beside a GPU."""
    return on_cuda() and importlib.util.find_spec("transformer_engine") is not None


def config_flags() -> dict[str, Any]:
    """Return the TransformerConfig fields that differ between the two paths."""
    fused = has_transformer_engine()
    return {
        "use_cpu_initialization": not on_cuda(),
        "gradient_accumulation_fusion": not on_cuda(),  # on a GPU it would need Apex: `cpu_kernels`
        "masked_softmax_fusion": fused,
        "bias_activation_fusion": False,
        "use_te_activation_func": not on_cuda(),  # "a module of the layer spec computes it": `cpu_layers.SwiGLU`
        "bias_dropout_fusion": False,
        "persist_layer_norm": fused,
        "apply_rope_fusion": fused,
    }


def layer_spec(config: Any, vp_stage: int | None = None) -> Any:
    """Return the block spec of a Llama decoder for this device.

    Transformer Engine's spec where it can be imported beside a GPU, otherwise Megatron's local spec. Checkpoint keys
    of both are the same, so a checkpoint made by one is read by the other.
    """
    activate()
    from megatron.core.models.gpt.gpt_layer_specs import (
        get_gpt_layer_local_spec,
        get_gpt_layer_with_transformer_engine_spec,
    )
    from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build

    count = get_num_layers_to_build(config, vp_stage=vp_stage)
    if has_transformer_engine():
        from megatron.core.extensions.transformer_engine import TENorm

        fused, fused_norm = get_gpt_layer_with_transformer_engine_spec(), cast(Any, TENorm)
        return TransformerBlockSubmodules(layer_specs=[fused] * count, layer_norm=fused_norm)
    from nanbeige_core.megatron.cpu_layers import CPURMSNorm, SDPACoreAttention, SwiGLU

    local: Any = get_gpt_layer_local_spec(normalization="RMSNorm")
    local.submodules.input_layernorm = CPURMSNorm
    local.submodules.pre_mlp_layernorm = CPURMSNorm
    local.submodules.self_attention.submodules.core_attention = SDPACoreAttention
    if config.use_te_activation_func:
        local.submodules.mlp.submodules.activation_func = SwiGLU
    return TransformerBlockSubmodules(layer_specs=[local] * count, layer_norm=cast(Any, CPURMSNorm))


def differences() -> list[dict[str, str]]:
    """Return one row for each thing that differs between the CPU and the CUDA path."""
    rows = [
        ("collectives", "gloo", "NCCL", "torch.distributed backend"),
        ("layer spec", "local spec", "Transformer Engine spec", "same checkpoint keys"),
        ("attention", "torch SDPA, one call per packed segment", "TE fused, thd packing", "same mask"),
        ("unpacked rows", "end to end, each a segment", "[positions, rows], Megatron's order", "same mask"),
        ("SwiGLU, RoPE", "own gradient, no concatenation", "Megatron's, RoPE fused", "same formula"),
        ("norm", "own gradient, few passes", "TE fused into the next linear", "same formula, same epsilon"),
        ("optimizer kernel", "GroupStepAdam (torch fused CPU AdamW)", "TE FusedAdam", "step in the parameter group"),
        ("weight gradients", "added to their sum by the product", "own product, then added", "cpu_kernels"),
        ("gradient reduction at one rank", "skipped", "NCCL, which copies nothing in place", "same memory in and out"),
        ("jit fusion", "off", "torch.compile of small kernels", "no C++ compile in every process"),
        ("config fusions", "off", "RoPE, masked softmax, persistent norm", "device.config_flags"),
        ("torch seen by Megatron", "proxied: cuda names answer for the CPU", "the real one", "cpu_shim"),
        ("random generator", "the CPU generator", "the CUDA generator", "dropout is 0 in this recipe"),
        ("usual parameter type", "float32", "bfloat16 with float32 main weights", "ModelConfig.dtype"),
        ("fp8, fp4, CUDA graphs", "not there", "Transformer Engine's, unused by this recipe", "no switch in Runtime"),
    ]
    return [{"what": what, "cpu": cpu, "cuda": cuda, "note": note} for what, cpu, cuda, note in rows]
