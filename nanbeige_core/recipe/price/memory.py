"""Peak memory of one device: weights, gradients, optimizer, activations, and the cache of generation.

Two accounts of a training step are given. `published_*` are the formulas Megatron-LM prints for a run
(megatron/training/theoretical_memory_usage.py; arXiv 2205.05198, Table 2). `training_bytes` counts what this
project's layers keep for the backward pass: RMSNorm, SwiGLU, grouped queries, no dropout, flash attention.
"""

from dataclasses import dataclass

from nanbeige_core.contract import Runtime
from nanbeige_core.recipe.price.ranges import Range
from nanbeige_core.recipe.price.transformer import Decoder
from nanbeige_core.recipe.vocabulary import padded_vocab_size

GRADIENT_BYTES = 4
"""Gradients are summed in fp32 whatever the weights' precision."""
MOMENT_BYTES = 8
"""AdamW's two moments in fp32."""
FRAGMENTATION = 1.15
"""Upper bound of what an allocator adds to the sum of live tensors. ours"""


@dataclass(frozen=True)
class Layout:
    """How a model is spread over devices."""

    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    sequence_parallel: bool = False
    recompute: bool = False

    @classmethod
    def of(cls, runtime: Runtime) -> "Layout":
        """Return the layout of a stage; ranks that no model dimension takes are data parallel."""
        shards = runtime.tensor_parallel * runtime.pipeline_parallel
        return cls(
            runtime.tensor_parallel,
            runtime.pipeline_parallel,
            max(runtime.processes // shards, 1),
            runtime.sequence_parallel,
            runtime.recompute,
        )


def micro_rows(runtime: Runtime, batch: float) -> int:
    """Return the sequences of a micro-batch when a step's `batch` is shared by the data-parallel ranks."""
    share = -(-batch // Layout.of(runtime).data_parallel)
    return max(min(runtime.micro_batch_size, int(share)), 1)


def shard_parameters(decoder: Decoder, layout: Layout) -> float:
    """Return the weights on the most loaded device: a share of the layers, and the embeddings that meet there."""
    tied_or_apart = decoder.model.tied_embeddings or layout.pipeline_parallel > 1
    embeddings = decoder.embedding_parameters * (1 if tied_or_apart else 2)
    return (decoder.block_parameters / layout.pipeline_parallel + embeddings) / layout.tensor_parallel


def state_bytes(decoder: Decoder, layout: Layout) -> float:
    """Return weights, gradients and optimizer state of the most loaded device under the distributed optimizer.

    bf16: 2 + 4 and (4 + 8) / data parallel bytes a weight; fp32 weights need no second copy: 4 + 4 and 8 / dp.
    """
    main = 4 if decoder.dtype_bytes < 4 else 0
    per_weight = decoder.dtype_bytes + GRADIENT_BYTES + (main + MOMENT_BYTES) / layout.data_parallel
    return shard_parameters(decoder, layout) * per_weight


def layer_activation_bytes(decoder: Decoder, tokens: float, layout: Layout) -> float:
    """Return what one layer keeps of a micro-batch of `tokens` until its backward pass.

    Kept whole without sequence parallelism: input and output of both norms. Split over tensor parallel: query, key,
    value, the attention's output, gate and up projection, and their product.
    """
    model, tp = decoder.model, layout.tensor_parallel
    whole = 4 * model.hidden_size / (tp if layout.sequence_parallel else 1)
    split = (2 * decoder.query_width + 2 * decoder.kv_width + 3 * model.ffn_size) / tp
    return tokens * (whole + split) * decoder.dtype_bytes


def layer_input_bytes(decoder: Decoder, tokens: float, layout: Layout) -> float:
    """Return a layer's input, all that full recomputation keeps of it (2 s b h in arXiv 2205.05198, section 5)."""
    shards = layout.tensor_parallel if layout.sequence_parallel else 1
    return tokens * decoder.model.hidden_size * decoder.dtype_bytes / shards


def logits_bytes(decoder: Decoder, tokens: float, layout: Layout) -> float:
    """Return what the loss holds at its peak: logits, their fp32 log-softmax, and the fp32 gradient."""
    columns = padded_vocab_size(decoder.vocab_size) / layout.tensor_parallel
    return tokens * columns * (decoder.dtype_bytes + 4 + 4)


def activation_bytes(decoder: Decoder, tokens: float, layout: Layout, *, micro_batches: float) -> float:
    """Return the activations of the first pipeline stage, or of the one stage there is, at their peak."""
    in_flight = min(layout.pipeline_parallel, max(micro_batches, 1))
    layers = decoder.model.layers / layout.pipeline_parallel * in_flight
    whole = layer_activation_bytes(decoder, tokens, layout)
    kept = layers * (layer_input_bytes(decoder, tokens, layout) if layout.recompute else whole)
    if layout.recompute:
        return kept + max(whole, logits_bytes(decoder, tokens, layout))  # one layer at a time, after the loss
    if layout.pipeline_parallel > 1:
        return max(kept, kept / in_flight + logits_bytes(decoder, tokens, layout))
    return kept + logits_bytes(decoder, tokens, layout)


def training_bytes(decoder: Decoder, tokens: float, layout: Layout, *, micro_batches: float) -> Range:
    """Return the peak of a training device: low is Megatron's published formula where that is lower."""
    kept = activation_bytes(decoder, tokens, layout, micro_batches=micro_batches)
    ours = state_bytes(decoder, layout) + kept
    theirs = published_state_bytes(decoder, layout) + published_activation_bytes(
        decoder, tokens, layout, micro_batches=micro_batches
    )
    return Range(min(ours, theirs), ours, ours * FRAGMENTATION)


def published_state_bytes(decoder: Decoder, layout: Layout, *, distributed_optimizer: bool = True) -> float:
    """Return Megatron-LM's formula: 18 bytes a weight, or 6 + 12 / data parallel with the distributed optimizer."""
    per_weight = 6 + 12 / layout.data_parallel if distributed_optimizer else 18
    return shard_parameters(decoder, layout) * per_weight


def published_activation_bytes(decoder: Decoder, tokens: float, layout: Layout, *, micro_batches: float) -> float:
    """Return Megatron-LM's formula for 16-bit activations without a kept attention matrix.

    Per layer s b h (18 + 4 f / h) / t with sequence parallelism, s b h (10 + 24 / t) without; then the embedding and,
    at one pipeline stage, the output layer.
    """
    model, tp, pp = decoder.model, layout.tensor_parallel, layout.pipeline_parallel
    vocabulary = padded_vocab_size(decoder.vocab_size)
    hidden = model.hidden_size
    embedding = 8 * tokens * pp + tokens * hidden * pp
    in_flight = min(1.0, micro_batches / pp) if pp > 1 else 1.0
    if layout.sequence_parallel:
        kept = tokens * hidden * (18 + 4 * model.ffn_size / hidden) * model.layers
        output = tokens * hidden * 4 * (1 + vocabulary / hidden) if pp == 1 else 0.0
        return ((kept + embedding) * in_flight + output) / tp
    kept = tokens * hidden * (10 + 24 / tp) * model.layers
    output = 2 * (tokens * vocabulary / tp + tokens * hidden) if pp == 1 else 0.0
    return 1.05 * ((kept + embedding) * in_flight + output)


def checkpoint_bytes(decoder: Decoder, *, with_optimizer: bool) -> float:
    """Return the size of a Checkpoint artifact: weights, and a copy with fp32 main weights and both moments."""
    optimizer = decoder.weight_bytes + (4 + MOMENT_BYTES) * decoder.parameters
    return decoder.weight_bytes + (optimizer if with_optimizer else 0)
