"""Batched sampling in process with transformers' LlamaForCausalLM: the engine of small CPU runs.

One prompt is prefilled once for all its samples, prompts of similar length share a batch, and finished
sequences leave it. Every sequence has its own random numbers, so a response does not depend on what it is
batched with. Shapes: B sequences, P prompts, S positions, V vocabulary.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nanbeige_core.generate.decoding import ATTENTION, RoomyCache, choose_tokens
from nanbeige_core.generate.protocol import Completion
from nanbeige_core.generate.random_streams import stream_of
from nanbeige_core.generate.token_engine import TokenEngine
from nanbeige_core.recipe.configs.base import SamplingConfig

STOP_TOKEN = "<|im_end|>"
LARGEST_BATCH = 128
"""Sequences decoded together; on CPU more buys nothing, the matrices are already wide."""
LARGEST_PREFILL = 32
"""Prompts read together when only their next token is asked for."""
COMPACT_BELOW = 0.8
"""Drop finished sequences from the batch once the live share falls below this."""
HIDDEN = -1e30
"""Additive mask of a position that must not be seen; finite, so a padding query still has a softmax."""


class _Sequence(NamedTuple):
    prompt: int
    sample: int


class TransformersEngine(TokenEngine):
    """Sample from a Llama state dict held in this process."""

    def __init__(self, state: Mapping[str, Tensor], config: LlamaConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        """Build the model around `state` (shared, not copied) under a Hugging Face Llama `config`."""
        with torch.device("meta"):
            self.model = LlamaForCausalLM(config)
        self.model.load_state_dict(dict(state), strict=not self.model.config.tie_word_embeddings, assign=True)
        if self.model.config.tie_word_embeddings:
            self.model.tie_weights()
        # buffers made on the meta device hold no numbers: rotary frequencies are not part of a state dict
        self.model.model.rotary_emb = type(self.model.model.rotary_emb)(config=self.model.config)
        self.model.config._attn_implementation = ATTENTION  # pyright: ignore[reportPrivateUsage]
        self.model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.stop_id = int(tokenizer.convert_tokens_to_ids(STOP_TOKEN))  # pyright: ignore[reportArgumentType]
        self._window = int(self.model.config.max_position_embeddings)
        self._version = 0

    @classmethod
    def open(cls, checkpoint_dir: Path, tokenizer_dir: Path) -> "TransformersEngine":
        """Load a Checkpoint artifact and its tokenizer."""
        from nanbeige_core.megatron.convert import hf_config, load_hf_state

        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_dir)
        config = hf_config(json.loads((checkpoint_dir / "model.json").read_text()))
        return cls(load_hf_state(checkpoint_dir), config, tokenizer)

    @property
    def version(self) -> int:
        """Return the version of the weights held."""
        return self._version

    @property
    def window(self) -> int:
        """Return the longest prompt and response together, in tokens."""
        return self._window

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        """Copy `state` into the model in place.

        Raises KeyError when a weight of the model is missing from `state`.
        """
        own = self.model.state_dict()
        for name, weight in own.items():
            if name == "lm_head.weight" and self.model.config.tie_word_embeddings:
                continue
            weight.copy_(state[name])
        self._version = version

    def close(self) -> None:
        """Do nothing: the weights go with the last reference to the engine."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, *, n: int, seed: int
    ) -> list[list[Completion]]:
        """Draw `n` responses to each prompt; a response ends at the stop token or at the window's end.

        Raises ValueError for an empty prompt and for one that leaves no room in the model's window.
        """
        for index, prompt in enumerate(prompts):
            if not 0 < len(prompt) < self._window:
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens, expected 1 to {self._window - 1}: the model's "
                    f"window is {self._window}. Drop or shorten it before sampling."
                )
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        work = [_Sequence(prompt, sample) for prompt in order for sample in range(n)]
        done: dict[_Sequence, Completion] = {}
        with torch.inference_mode():
            for start in range(0, len(work), LARGEST_BATCH):
                batch = work[start : start + LARGEST_BATCH]
                done.update(self._decode(batch, prompts, sampling, seed=seed))
        return [[done[_Sequence(prompt, sample)] for sample in range(n)] for prompt in range(len(prompts))]

    def next_logits(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Tensor:
        """Return the fp32 logits [P, len(tokens)] of the given next tokens after each prompt."""
        logits_PK = torch.zeros(len(prompts), len(tokens))
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        with torch.inference_mode():
            for start in range(0, len(order), LARGEST_PREFILL):
                part = order[start : start + LARGEST_PREFILL]
                cache = RoomyCache(self.model.config.num_hidden_layers, len(prompts[part[-1]]))
                logits_PV, _ = self._prefill([prompts[index] for index in part], cache)
                logits_PK[part] = logits_PV[:, list(tokens)].float()
        return logits_PK

    def _decode(
        self,
        batch: list[_Sequence],
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
    ) -> dict[_Sequence, Completion]:
        """Run one batch to its end."""
        unique = sorted({sequence.prompt for sequence in batch}, key=lambda prompt: len(prompts[prompt]))
        # left padding takes cache room but no positions, so each sequence keeps its own limit
        limits = [min(sampling.max_new_tokens, self._window - len(prompts[item.prompt])) for item in batch]
        longest = len(prompts[unique[-1]])
        cache = RoomyCache(self.model.config.num_hidden_layers, longest + max(limits))
        logits_PV, padding_P = self._prefill([prompts[prompt] for prompt in unique], cache)
        rows_B = torch.tensor([unique.index(sequence.prompt) for sequence in batch])
        cache.select(rows_B)
        stream_B = torch.tensor([stream_of(prompts[item.prompt], item.sample, seed) for item in batch])
        live = _Live(torch.arange(len(batch)), stream_B, padding_P[rows_B], torch.tensor(limits))
        drawn = _Drawn(len(batch), max(limits), self.stop_id)
        logits_BV = logits_PV[rows_B]
        for step in range(max(limits)):
            uniform_B = _uniform(live.stream_B, step)
            log_probs_BV = torch.log_softmax(logits_BV.float() / (sampling.temperature or 1.0), dim=-1)
            chosen_B = choose_tokens(
                log_probs_BV,
                uniform_B,
                greedy=sampling.temperature == 0,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
            )
            drawn.write(step, live.row_B, chosen_B, log_probs_BV.gather(1, chosen_B[:, None])[:, 0])
            running_B = (chosen_B != self.stop_id) & (live.limit_B > step + 1) & (drawn.length_B[live.row_B] == 0)
            drawn.end(step, live.row_B[~running_B])
            alive = int(running_B.sum())
            if alive == 0:
                break
            if alive < COMPACT_BELOW * len(running_B):
                kept_B = running_B.nonzero()[:, 0]
                cache.select(kept_B)
                live, chosen_B = live.select(kept_B), chosen_B[kept_B]
            logits_BV = self._advance(chosen_B, live.padding_B, longest + step, cache)
        return {item: drawn.completion(row, prompts[item.prompt], self.stop_id) for row, item in enumerate(batch)}

    def _prefill(self, prompts: list[Sequence[int]], cache: RoomyCache) -> tuple[Tensor, Tensor]:
        """Return the last logits [P, V] and the left padding [P] of a batch of prompts."""
        longest = max(len(prompt) for prompt in prompts)
        padding_P = torch.tensor([longest - len(prompt) for prompt in prompts])
        tokens_PS = torch.tensor([[self.stop_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        position_S = torch.arange(longest)
        seen_PSS = (position_S[None, :] <= position_S[:, None])[None] & (position_S >= padding_P[:, None])[:, None]
        mask = torch.zeros(seen_PSS.shape, dtype=self.model.dtype).masked_fill_(~seen_PSS, HIDDEN)[:, None]
        positions_PS = (position_S - padding_P[:, None]).clamp_min(0)
        return self._forward(tokens_PS, mask, positions_PS, cache), padding_P

    def _advance(self, tokens_B: Tensor, padding_B: Tensor, position: int, cache: RoomyCache) -> Tensor:
        """Feed one token to each sequence; return the next logits [B, V]."""
        hidden_BS = torch.arange(position + 1) < padding_B[:, None]
        mask = torch.zeros(hidden_BS.shape, dtype=self.model.dtype).masked_fill_(hidden_BS, HIDDEN)[:, None, None]
        return self._forward(tokens_B[:, None], mask, (position - padding_B)[:, None], cache)

    def _forward(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: RoomyCache) -> Tensor:
        output = self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]


class _Live(NamedTuple):
    """Describe the sequences still in the batch: their row in the results, random stream, padding and
    limit."""

    row_B: Tensor
    stream_B: Tensor
    padding_B: Tensor
    limit_B: Tensor

    def select(self, kept_B: Tensor) -> "_Live":
        return _Live(*(values_B[kept_B] for values_B in self))


class _Drawn:
    """Collect what a batch has drawn so far."""

    def __init__(self, rows: int, steps: int, stop_id: int) -> None:
        self.tokens_BS = torch.full((rows, steps), stop_id)
        self.logprobs_BS = torch.zeros(rows, steps)
        self.length_B = torch.zeros(rows, dtype=torch.long)

    def write(self, step: int, row_B: Tensor, tokens_B: Tensor, logprobs_B: Tensor) -> None:
        self.tokens_BS[row_B, step] = tokens_B
        self.logprobs_BS[row_B, step] = logprobs_B

    def end(self, step: int, row_B: Tensor) -> None:
        """Fix the length of sequences that stopped at `step`; the first end of a row counts."""
        self.length_B[row_B] = torch.where(self.length_B[row_B] == 0, step + 1, self.length_B[row_B])

    def completion(self, row: int, prompt: Sequence[int], stop_id: int) -> Completion:
        length = int(self.length_B[row])
        tokens = tuple(self.tokens_BS[row, :length].tolist())
        logprobs = tuple(self.logprobs_BS[row, :length].tolist())
        return Completion(tuple(prompt), tokens, logprobs, "stop" if tokens[-1] == stop_id else "length")


def _uniform(stream_B: Tensor, step: int) -> Tensor:
    """Return one number in [0, 1) for every stream at one step: a counter hashed by splitmix64's finaliser."""
    mixed = stream_B.numpy().astype(np.uint64) + np.uint64((step + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed = mixed ^ (mixed >> np.uint64(31))
    return torch.from_numpy((mixed >> np.uint64(40)).astype(np.float32) * np.float32(2**-24))
