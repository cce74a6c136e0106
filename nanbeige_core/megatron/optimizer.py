"""Megatron's DistributedDataParallel and distributed AdamW around a model's parts on this rank."""

import math
from typing import Any, NamedTuple

import torch

from nanbeige_core.megatron.model import Chunks
from nanbeige_core.megatron.optimizer_state import save_without_gathering
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig

UNDECAYED = ("*word_embeddings.weight", "*layernorm.weight", "*layer_norm_weight", "*norm.weight", "*.bias")
"""Parameter names without weight decay (norms, embeddings, biases; recipe section 3)."""


class Trainable(NamedTuple):
    """A model whose parts are wrapped for gradient reduction, and its optimizer."""

    model: Chunks
    optimizer: Any


def build_optimizer(chunks: Chunks, model: ModelConfig, config: OptimizerConfig, schedule: LrSchedule) -> Trainable:
    """Wrap each part in Megatron's DDP, summing gradients, and give it the distributed optimizer.

    The distributed optimizer is used at one data-parallel rank too, so that its state can be loaded at any number.
    """
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
    from megatron.core.optimizer import ParamKey, get_megatron_optimizer

    with torch.enable_grad():  # DDP finds each weight's gradient accumulator through a graph
        wrapped = [
            DistributedDataParallel(
                part.config,
                DistributedDataParallelConfig(use_distributed_optimizer=True, grad_reduce_in_fp32=True),
                part,
            )
            for part in chunks.parts
        ]
    shared = chunks.parts[0].config
    names = UNDECAYED + (("*output_layer.weight",) if model.tied_embeddings else ())
    built = get_megatron_optimizer(
        MegatronOptimizerConfig(
            optimizer="adam",
            lr=schedule.peak,
            min_lr=schedule.floor,
            weight_decay=config.weight_decay,
            adam_beta1=config.beta1,
            adam_beta2=config.beta2,
            adam_eps=config.epsilon,
            clip_grad=config.clip_norm,
            bf16=model.dtype == "bfloat16",
            params_dtype=shared.params_dtype,
            use_distributed_optimizer=True,
        ),
        wrapped,  # type: ignore[arg-type]
        config_overrides={ParamKey(name=names): {"wd_mult": 0.0}},  # type: ignore[arg-type,dict-item]
    )
    save_without_gathering(built)
    _refuse_unfinite_norm(built)
    shared.finalize_model_grads_func = finalize_model_grads
    return Trainable(Chunks(wrapped), built)


def _refuse_unfinite_norm(optimizer: Any) -> None:
    """Raise FloatingPointError where a step finds that the gradient's norm is no number: clipping would spread it."""
    measure = optimizer.get_grad_norm

    def get_grad_norm() -> float:
        norm = float(measure())
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm}, a finite number was expected: clipping would write it into every "
                "weight. No weight was changed. Lower the peak learning rate or look at this step's batch."
            )
        return norm

    optimizer.get_grad_norm = get_grad_norm
