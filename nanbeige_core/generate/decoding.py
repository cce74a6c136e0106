"""What the in-process engine adds to a transformers Llama so that decoding small models is cheap.

transformers' dynamic cache copies the whole cache at each step, and its masked attention repeats the
key/value heads in memory. Here the cache is written in place into preallocated room, grouped queries multiply
the shared heads directly, and finished sequences leave the batch. Shapes: B sequences, Q queries, S positions
held, H key/value heads, R query heads per key/value head, D head width.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin

ATTENTION = "grouped_query_matmul"
"""Name under which `grouped_attention` is registered with transformers."""
_NUCLEUS = 64
"""Largest probabilities looked at before a whole vocabulary is sorted."""


def grouped_attention(
    module: torch.nn.Module,
    query_BNQD: Tensor,
    key_BHSD: Tensor,
    value_BHSD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with shared key/value heads and an additive mask [B, 1, Q, S]; softmax in fp32.

    Returns [B, Q, N, D] as transformers' attention interface asks.
    """
    batch, heads, queries, width = query_BNQD.shape
    kv_heads, held = key_BHSD.shape[1], key_BHSD.shape[2]
    grouped = query_BNQD.reshape(batch, kv_heads, heads // kv_heads * queries, width)
    scores = torch.matmul(grouped * (scaling or width**-0.5), key_BHSD.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.view(batch, kv_heads, heads // kv_heads, queries, held) + attention_mask[:, :, None]
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value_BHSD.dtype)
    mixed = torch.matmul(weights.view(batch, kv_heads, -1, held), value_BHSD)
    return mixed.view(batch, heads, queries, width).transpose(1, 2), None


AttentionInterface.register(ATTENTION, grouped_attention)


class RoomyLayer(CacheLayerMixin):
    """Hold one layer's keys and values in room for `capacity` positions, written in place."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate room after the first keys and values are known."""
        batch, heads, _, width = key_states.shape
        self.keys = key_states.new_empty(batch, heads, self.capacity, width)
        self.values = value_states.new_empty(batch, heads, self.capacity, width)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, H, Q, D] keys and values; return all held so far as views."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows_B: Tensor) -> None:
        """Keep (or repeat) the given sequences, in that order; only held positions are copied."""
        assert self.keys is not None
        assert self.values is not None
        keys, values = self.keys, self.values
        self.keys = keys.new_empty(rows_B.numel(), *keys.shape[1:])
        self.values = values.new_empty(rows_B.numel(), *values.shape[1:])
        self.keys[:, :, : self.length] = keys[:, :, : self.length][rows_B]
        self.values[:, :, : self.length] = values[:, :, : self.length][rows_B]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the key length a mask needs and its offset."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Return how many positions are held."""
        return self.length

    def get_max_length(self) -> int:
        """Return how many positions fit."""
        return self.capacity


class RoomyCache(Cache):
    """A cache of `RoomyLayer`s whose sequences can be selected."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.rooms = [RoomyLayer(capacity) for _ in range(layers)]
        super().__init__(layers=list(self.rooms))

    def select(self, rows_B: Tensor) -> None:
        """Keep (or repeat) the given sequences in every layer."""
        for room in self.rooms:
            room.select(rows_B)


def choose_tokens(log_probs_BV: Tensor, uniform_B: Tensor, *, greedy: bool, top_p: float, top_k: int) -> Tensor:
    """Return sampled ids [B] by inverting the cumulative distribution at `uniform_B` in [0, 1).

    `log_probs_BV` are fp32 and already at the sampling temperature. Truncation keeps the `top_k` largest (0
    keeps all), then the smallest set of largest probabilities that reaches `top_p`. The same uniform number
    gives the same token whatever else is in the batch.
    """
    if greedy:
        return log_probs_BV.argmax(dim=-1)
    probabilities_BV = log_probs_BV.exp()
    if top_p == 1 and top_k == 0:
        return _invert(probabilities_BV, uniform_B)
    total_B1 = probabilities_BV.sum(dim=-1, keepdim=True)
    vocabulary = probabilities_BV.shape[1]
    if top_k:
        largest_BK, order_BK = probabilities_BV.topk(min(top_k, vocabulary), dim=-1)
        return _choose_from_nucleus(largest_BK, order_BK, uniform_B, top_p * largest_BK.sum(dim=-1, keepdim=True))
    # sorting a whole vocabulary costs more than a small model's step, and the nucleus is nearly always a few tokens
    largest_BK, order_BK = probabilities_BV.topk(min(_NUCLEUS, vocabulary), dim=-1)
    chosen_B = _choose_from_nucleus(largest_BK, order_BK, uniform_B, top_p * total_B1)
    wide_B = largest_BK.sum(dim=-1) < top_p * total_B1[:, 0]
    if wide_B.any():
        sorted_BV, order_BV = probabilities_BV[wide_B].sort(dim=-1, descending=True)
        chosen_B[wide_B] = _choose_from_nucleus(sorted_BV, order_BV, uniform_B[wide_B], top_p * total_B1[wide_B])
    return chosen_B


def _choose_from_nucleus(sorted_BK: Tensor, order_BK: Tensor, uniform_B: Tensor, reach_B1: Tensor) -> Tensor:
    """Sample from the shortest head of descending weights that reaches `reach_B1` [B, 1]."""
    before_BK = sorted_BK.cumsum(dim=-1) - sorted_BK
    kept_BK = sorted_BK.masked_fill(before_BK >= reach_B1, 0.0)
    return order_BK.gather(1, _invert(kept_BK, uniform_B)[:, None])[:, 0]


def _invert(weights_BV: Tensor, uniform_B: Tensor) -> Tensor:
    cumulative_BV = weights_BV.cumsum(dim=-1)
    # just below the total: rounding must not step past the last token that has any weight
    point_B1 = uniform_B[:, None] * cumulative_BV[:, -1:] * (1 - 1e-6)
    return torch.searchsorted(cumulative_BV, point_B1, right=True)[:, 0].clamp_max(weights_BV.shape[1] - 1)
