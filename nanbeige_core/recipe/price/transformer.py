"""What the recipe's decoder costs: parameters, and the floating-point operations its kernels execute.

    weights of a layer   h (q + 2k) + q h + 3 h f          q = heads * width, k = key/value heads * width
    forward, per token   2 * (layers * weights of a layer + h V)
    forward, attention   layers * 4 q * (key, query) pairs
    backward             2 x the matrices; 2.5 x the attention, whose kernel computes the scores again

A multiplication and an addition are two operations, as torch.utils.flop_counter counts them; norms, activations,
rotary embeddings and the softmax are left out, as it leaves them out.
"""

from typing import NamedTuple

from nanbeige_core.recipe.configs.base import ModelConfig
from nanbeige_core.recipe.price.ranges import Range, as_range
from nanbeige_core.recipe.vocabulary import padded_vocab_size

BACKWARD_MATRICES = 2.0
"""Operations of the backward pass per operation of the forward pass: gradients of inputs and of weights."""
BACKWARD_ATTENTION = 2.5
"""Five products where the forward pass has two: scores again, and gradients of value, weights, query and key."""


class Decoder(NamedTuple):
    """A model with its vocabulary: what every cost is computed from."""

    model: ModelConfig
    vocab_size: int

    @property
    def query_width(self) -> int:
        """Return the width of all query heads together."""
        return self.model.query_heads * self.model.head_size

    @property
    def kv_width(self) -> int:
        """Return the width of all key heads together, which is that of the values too."""
        return self.model.kv_heads * self.model.head_size

    @property
    def layer_matrices(self) -> int:
        """Return the weights of one layer's matrices."""
        hidden = self.model.hidden_size
        attention = hidden * (self.query_width + 2 * self.kv_width) + self.query_width * hidden
        return attention + 3 * hidden * self.model.ffn_size

    @property
    def block_parameters(self) -> int:
        """Return the weights of all layers and the last norm."""
        hidden = self.model.hidden_size
        return self.model.layers * (self.layer_matrices + 2 * hidden) + hidden

    @property
    def embedding_parameters(self) -> int:
        """Return the weights of one embedding matrix, padded rows included."""
        return padded_vocab_size(self.vocab_size) * self.model.hidden_size

    @property
    def parameters(self) -> int:
        """Return all weights as Megatron holds them, padded rows included."""
        return self.block_parameters + self.embedding_parameters * (1 if self.model.tied_embeddings else 2)

    @property
    def unpadded_parameters(self) -> int:
        """Return all weights as an exported model holds them."""
        rows = padded_vocab_size(self.vocab_size) - self.vocab_size
        return self.parameters - rows * self.model.hidden_size * (1 if self.model.tied_embeddings else 2)

    @property
    def dtype_bytes(self) -> int:
        """Return the bytes of one weight or activation."""
        return {"float32": 4, "bfloat16": 2}[self.model.dtype]

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of all weights."""
        return self.parameters * self.dtype_bytes

    @property
    def cache_bytes_per_token(self) -> int:
        """Return the bytes of one token's keys and values in all layers."""
        return 2 * self.model.layers * self.kv_width * self.dtype_bytes

    @property
    def body_flops(self) -> float:
        """Return the forward operations of one token in all matrices but the output layer."""
        return 2.0 * self.model.layers * self.layer_matrices

    @property
    def output_flops(self) -> float:
        """Return the forward operations of one token in the output layer."""
        return 2.0 * self.embedding_parameters

    def attention_flops(self, pairs: Range | float) -> Range:
        """Return the forward operations of attention over that many (key, query) pairs: scores and their use."""
        return as_range(pairs) * (4.0 * self.model.layers * self.query_width)

    def forward_flops(self, tokens: Range | float, pairs: Range | float) -> Range:
        """Return the operations of reading `tokens` with logits for each of them."""
        return as_range(tokens) * (self.body_flops + self.output_flops) + self.attention_flops(pairs)

    def layers_flops(self, tokens: Range | float, pairs: Range | float) -> Range:
        """Return the operations of one forward pass through the layers, which is what recomputation adds."""
        return as_range(tokens) * self.body_flops + self.attention_flops(pairs)

    def training_flops(self, tokens: Range | float, pairs: Range | float) -> Range:
        """Return the operations of a forward and a backward pass over `tokens`."""
        matrices = as_range(tokens) * ((1 + BACKWARD_MATRICES) * (self.body_flops + self.output_flops))
        return matrices + self.attention_flops(pairs) * (1 + BACKWARD_ATTENTION)

    def prefill_flops(self, prompts: Range | float, prompt_tokens: Range | float) -> Range:
        """Return the operations of reading prompts of which only the last token's logits are computed."""
        each, length = as_range(prompts), as_range(prompt_tokens)
        read = each * length * self.body_flops + each * self.output_flops
        return read + self.attention_flops(each * causal_pairs(length))

    def decode_flops(self, responses: Range | float, prompt_tokens: Range | float, tokens: Range | float) -> Range:
        """Return the operations of drawing `responses` of `tokens` each, one token at a time, after their prompts."""
        each, prompt, length = as_range(responses), as_range(prompt_tokens), as_range(tokens)
        seen = each * (prompt * length + causal_pairs(length))
        return each * length * (self.body_flops + self.output_flops) + self.attention_flops(seen)


def causal_pairs(length: Range | float) -> Range:
    """Return how many (key, query) pairs a causal segment of that length has: each token sees itself and before."""
    return as_range(length).map(lambda value: value * (value + 1) / 2)


def packed_pairs(tokens: Range | float, segment: Range | float) -> Range:
    """Return the pairs of `tokens` cut into segments of about equal length that do not see one another."""
    return as_range(tokens) * as_range(segment).map(lambda value: (value + 1) / 2)
