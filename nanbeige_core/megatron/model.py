"""Build Megatron's GPTModel as the Llama decoder of the recipe, and run it on a Batch.

Legend: B sequence, S position, T packed tokens (B * S), V vocabulary, _tp = local shard.
"""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import device, parallel
from nanbeige_core.megatron.batch import Batch, Segments, find_segments, whole_rows
from nanbeige_core.megatron.chunked_head import HiddenOutput
from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.vocabulary import padded_vocab_size


def _leave(weight: Tensor) -> Tensor:
    return weight


def transformer_config(model: ModelConfig, runtime: Runtime) -> Any:
    """Return Megatron's TransformerConfig for `model` under the parallel layout of `runtime`."""
    from megatron.core.transformer.transformer_config import TransformerConfig

    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.query_heads,
        num_query_groups=model.kv_heads,
        kv_channels=model.head_size,
        ffn_hidden_size=model.ffn_size,
        layernorm_epsilon=model.norm_epsilon,
        init_method_std=model.initializer_range,
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        # `initialize_weights` fills the weights, independent of the layout; Megatron's own initialisation must still
        # run, because it marks which weights are split (without the marks the gradient norm is wrong at tp > 1)
        init_method=_leave,
        output_layer_init_method=_leave,
        embedding_init_method=_leave,
        tensor_model_parallel_size=runtime.tensor_parallel,
        pipeline_model_parallel_size=runtime.pipeline_parallel,
        virtual_pipeline_model_parallel_size=runtime.virtual_pipeline if runtime.virtual_pipeline > 1 else None,
        # between two ranks a batch of sends and receives cannot tell the next part's from the previous part's
        overlap_p2p_comm=runtime.virtual_pipeline > 1,
        batch_p2p_comm=runtime.virtual_pipeline == 1,
        sequence_parallel=runtime.sequence_parallel,
        variable_seq_lengths=runtime.pipeline_parallel > 1,  # micro-batches of one step may differ in shape
        moe_token_dispatcher_type="alltoall",  # no experts here; the default refuses variable lengths
        calculate_per_token_loss=True,
        recompute_granularity="full" if runtime.recompute else None,
        recompute_method="uniform" if runtime.recompute else None,
        recompute_num_layers=1 if runtime.recompute else None,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=model.dtype == "bfloat16",
        **device.config_flags(),
    )


class Chunks:
    """This rank's parts of one model: one, or several where the pipeline is interleaved."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    @property
    def module(self) -> "Chunks":
        """Return the parts without the wrapper around each."""
        return Chunks([part.module for part in self.parts])

    def sharded_state_dict(self) -> dict[str, Any]:
        """Return Megatron's sharded weights; their keys are the whole model's, whatever part holds them."""
        if len(self.parts) == 1:
            return self.parts[0].sharded_state_dict()
        return {f"chunk{number}": part.sharded_state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was loaded into `sharded_state_dict`."""
        if len(self.parts) == 1:
            self.parts[0].load_state_dict(state)
            return
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[f"chunk{number}"])


def build_chunks(model: ModelConfig, *, vocab_size: int, runtime: Runtime) -> Chunks:
    """Build this rank's part of the model, or its parts under `runtime.virtual_pipeline`, weights uninitialised.

    Needs `parallel.initialize`. Raises parallel.LayoutError when the model does not divide by the layout.
    """
    parallel.validate_layout(model, runtime, world_size=torch.distributed.get_world_size())
    config = transformer_config(model, runtime)
    numbers = range(runtime.virtual_pipeline) if runtime.virtual_pipeline > 1 else [None]
    return Chunks([_build(config, model, vocab_size, runtime, chunk=number) for number in numbers])


def build_model(model: ModelConfig, *, vocab_size: int, runtime: Runtime) -> Any:
    """Return this rank's part of the model, its weights still uninitialised.

    Needs `parallel.initialize`. Raises parallel.LayoutError when the model does not divide by the layout, or would
    lie in several parts.
    """
    chunks = build_chunks(model, vocab_size=vocab_size, runtime=runtime)
    if len(chunks.parts) > 1:
        raise parallel.LayoutError(
            f"runtime.virtual_pipeline is {runtime.virtual_pipeline}, 1 was expected: only training stages interleave "
            "the pipeline. Leave it out here; checkpoints load in any layout."
        )
    return chunks.parts[0]


def _build(config: Any, model: ModelConfig, vocab_size: int, runtime: Runtime, *, chunk: int | None) -> Any:
    from megatron.core.models.gpt.gpt_model import GPTModel
    from megatron.core.transformer.module import Float16Module

    stage = torch.distributed.get_rank(parallel.pipeline_group())
    gpt = GPTModel(
        config=config,
        transformer_layer_spec=device.layer_spec(config, vp_stage=chunk),
        vocab_size=padded_vocab_size(vocab_size),
        max_sequence_length=model.max_positions,
        pre_process=stage == 0 and not chunk,
        post_process=stage == runtime.pipeline_parallel - 1 and chunk in (None, runtime.virtual_pipeline - 1),
        share_embeddings_and_output_weights=model.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=model.rope_theta,  # type: ignore[arg-type]  # Megatron annotates int; a float is what it needs
        parallel_output=True,
        vp_stage=chunk,
    ).to(device.device())
    if gpt.post_process and not config.sequence_parallel:
        _multiply_batch_first(gpt.output_layer)
    return Float16Module(config, gpt) if model.dtype == "bfloat16" else gpt


def _multiply_batch_first(output_layer: Any) -> None:
    """Turn hidden states from [S, B] to [B, S], for GPTModel would turn, and copy, logits and their gradient."""

    def before(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del layer
        return inputs[0].transpose(0, 1).contiguous(), *inputs[1:]

    def after(layer: Any, inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        del layer, inputs
        return output[0].transpose(0, 1), output[1]

    output_layer.register_forward_pre_hook(before)
    output_layer.register_forward_hook(after)


def iterate_shards(model: Any) -> Iterator[Any]:
    """Yield Megatron's ShardedTensor for each stored piece of this rank's weights; `.data` is a view of the weight."""
    from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory

    def walk(value: Any) -> Iterator[Any]:
        if isinstance(value, ShardedTensorFactory):
            yield from walk(value.build())
        elif isinstance(value, ShardedTensor):
            yield value
        elif isinstance(value, dict):
            for part in value.values():
                yield from walk(part)
        elif isinstance(value, list | tuple):
            for part in value:
                yield from walk(part)

    yield from walk(model.sharded_state_dict())


def _normal(key: str, shape: tuple[int, ...], *, seed: int, std: float) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{key}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(shape).normal_(0.0, std, generator=generator)


@torch.no_grad()
def initialize_weights(model: Any, config: ModelConfig, *, seed: int) -> None:
    """Fill the weights as a function of (seed, name, layer) alone, so every layout starts from the same model.

    Norms are one; matrices are normal with `initializer_range`; the two that write into the residual stream
    (linear_proj, linear_fc2) are scaled down by sqrt(2 * layers), as Megatron does. No collectives.
    """
    residual_std = config.initializer_range / (2.0 * config.layers) ** 0.5
    for shard in iterate_shards(model):
        if shard.data.dim() == 1:
            shard.data.fill_(1.0)
            continue
        lead = shard.prepend_axis_num
        position = tuple(shard.global_offset[:lead])
        residual = "linear_proj" in shard.key or "linear_fc2" in shard.key
        full = _normal(
            f"{shard.key}/{position}",
            tuple(shard.global_shape[lead:]),
            seed=seed,
            std=residual_std if residual else config.initializer_range,
        )
        region = zip(shard.global_offset[lead:], shard.local_shape, strict=True)
        shard.data.copy_(full[tuple(slice(offset, offset + length) for offset, length in region)])


def forward_logits(model: Any, batch: Batch) -> Tensor:
    """Run this rank's part of the model on a micro-batch.

    Returns logits [B, S, V_tp] on the last pipeline stage and hidden states elsewhere. Packed batches go through
    Megatron's "thd" route as one row of T tokens, on every device: a segment never sees another one. On a CPU whole
    rows go the same way, for in Megatron's order [S, B, H] the neighbours that attention reads lie B * H apart.
    """
    segments = _segments(batch)
    if segments is None:
        return model(batch.tokens_BS, _positions(batch.tokens_BS), None)
    tokens_1T = batch.tokens_BS.reshape(1, -1)
    output = model(
        tokens_1T, _positions(tokens_1T), None, packed_seq_params=_packed_params(segments, batch.tokens_BS.device)
    )
    return output.reshape(*batch.tokens_BS.shape, -1) if holds_output_layer(model) else output


def _segments(batch: Batch) -> Segments | None:
    if batch.segment_ids_BS is not None:
        return find_segments(batch.segment_ids_BS)
    return None if device.on_cuda() else whole_rows(*batch.tokens_BS.shape)


def holds_output_layer(model: Any) -> bool:
    """Tell whether this part of the model ends in the output layer."""
    return bool(_unwrapped(model).post_process)


def forward_hidden(model: Any, batch: Batch) -> HiddenOutput:
    """Run the model up to its output layer, which the caller applies piece by piece; needs `holds_output_layer`.

    Returns hidden states [B, S, H], gathered under sequence parallelism, and this rank's rows of the output matrix.
    Backward: the hidden states' gradient is summed (or reduce-scattered) over tensor-parallel ranks.
    """
    gpt = _unwrapped(model)
    with _output_layer_skipped(gpt):
        hidden_BSH = forward_logits(model, batch)
    return HiddenOutput(hidden_BSH, output_matrix(gpt))


def output_matrix(model: Any) -> Tensor:
    """Return this rank's rows of the output matrix [V_tp, H]; needs `holds_output_layer`."""
    gpt = _unwrapped(model)
    shared = gpt.share_embeddings_and_output_weights
    return gpt.shared_embedding_or_output_weight() if shared else gpt.output_layer.weight


def _unwrapped(model: Any) -> Any:
    while hasattr(model, "module"):
        model = model.module
    return model


@contextmanager
def _output_layer_skipped(gpt: Any) -> Generator[None]:
    from megatron.core.tensor_parallel.mappings import (
        copy_to_tensor_model_parallel_region,
        gather_from_sequence_parallel_region,
    )

    def hand_on(hidden: Tensor, weight: Any = None, runtime_gather_output: Any = None) -> tuple[Tensor, None]:
        del weight, runtime_gather_output
        if gpt.config.sequence_parallel:
            return gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True), None
        return _contiguous_gradient(copy_to_tensor_model_parallel_region(hidden)), None

    gpt.output_layer.forward = hand_on
    try:
        yield
    finally:
        del gpt.output_layer.forward


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        del ctx
        return args[0].view_as(args[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        del ctx
        return grad_outputs[0].contiguous()


def _contiguous_gradient(hidden: Tensor) -> Tensor:
    # megatron-core 0.16.1 all-reduces a copy of a gradient that is not contiguous and goes on with the unreduced one
    return cast(Tensor, _ContiguousGradient.apply(hidden))


def _positions(tokens_BS: Tensor) -> Tensor:
    # Megatron's rotary embedding counts positions itself and ignores these; the signature wants them
    return torch.arange(tokens_BS.size(1), device=tokens_BS.device).expand_as(tokens_BS)


def _packed_params(segments: Segments, where: torch.device) -> Any:
    from megatron.core.packed_seq_params import PackedSeqParams

    starts = torch.tensor(segments.starts, dtype=torch.int32, device=where)
    longest = max(segments.lengths)
    params: Any = PackedSeqParams(
        qkv_format="thd", cu_seqlens_q=starts, cu_seqlens_kv=starts, max_seqlen_q=longest, max_seqlen_kv=longest
    )
    params.lengths = segments.lengths  # what the CPU attention splits by, without reading a tensor back
    return params
