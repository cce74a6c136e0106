"""A second, frozen model in the training process: a distillation teacher, or the reference of a preference loss.

Legend: B sequence, S position, V vocabulary, _tp = local shard.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import device, parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput
from nanbeige_core.megatron.model import (
    Chunks,
    build_chunks,
    forward_hidden,
    forward_logits,
    holds_output_layer,
    output_matrix,
)
from nanbeige_core.megatron.passes import run_schedule
from nanbeige_core.megatron.vocab_parallel import mask_padding, vocab_parallel_log_probs
from nanbeige_core.megatron.weights import ModelCard, load_weights, read_model_card

READ_AHEAD = "read_ahead_BSH"
"""Name under which a batch carries the hidden states that `FrozenModel.read_ahead` found."""


class FrozenModel:
    """A model without optimizer, in eval mode, in the layout of the trainer it stands beside."""

    def __init__(self, chunks: Chunks, card: ModelCard) -> None:
        self.chunks = chunks
        self.card = card

    @classmethod
    def open(cls, weights_dir: Path, *, runtime: Runtime, seed: int = 0, pipelined: bool = False) -> Self:
        """Load the weights/ directory of a Checkpoint artifact, reading model.json beside it; collective.

        The layout is the runtime's, so vocabulary shards and pipeline ranks line up with the trainer's. With
        `pipelined` the layers may lie on several pipeline ranks: then only `read_ahead` runs the model. Raises
        parallel.LayoutError at pipeline parallel > 1 otherwise.
        """
        if runtime.pipeline_parallel != 1 and not pipelined:
            raise parallel.LayoutError(
                f"runtime.pipeline_parallel is {runtime.pipeline_parallel}, a frozen model that gives logits needs 1: "
                "they must exist on every rank. Use tensor_parallel."
            )
        from megatron.core import parallel_state

        if not parallel_state.model_parallel_is_initialized():
            parallel.initialize(runtime, seed=seed)
        card = read_model_card(weights_dir.parent)
        chunks = build_chunks(card.model, vocab_size=card.vocab_size, runtime=runtime)
        load_weights(chunks, weights_dir)
        for part in chunks.parts:
            part.requires_grad_(False).eval()
        return cls(chunks, card)

    @property
    def model(self) -> Any:
        """Return the whole model, where it lies in one part."""
        (part,) = self.chunks.parts
        return part

    @torch.no_grad()
    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """Let `hidden` answer for these batches where the layers lie on several pipeline ranks; collective over them.

        A forward pass of the pipeline leaves each batch's hidden states with it on the last rank. Does nothing where
        the model is whole.
        """
        if parallel.pipeline_size() == 1 or not batches:
            return

        def step(waiting: Iterator[Batch], part: Any) -> Any:
            batch = next(waiting).to(device.device())
            output = forward_hidden(part, batch).hidden_BSH if holds_output_layer(part) else forward_logits(part, batch)

            def keep(hidden_BSH: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                nothing = torch.zeros((), device=hidden_BSH.device)
                return nothing, nothing.int(), {READ_AHEAD: hidden_BSH}

            return output, keep

        found = run_schedule(self.chunks.parts, batches, step, forward_only=True)
        for batch, kept in zip(batches, found, strict=False):  # nothing is found but on the last rank
            batch.extra |= kept

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, S, V_tp] without gradient, padded columns masked; Megatron's collectives over tp."""
        return mask_padding(forward_logits(self.model, batch.to(device.device())), self.card.vocab_size)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> HiddenOutput:
        """Return hidden states [B, S, H] and this rank's rows of the output matrix, both without gradient.

        On several pipeline ranks: on the last one, of a batch that was read ahead.
        """
        if parallel.pipeline_size() == 1:
            return forward_hidden(self.model, batch.to(device.device()))
        return HiddenOutput(batch.extra[READ_AHEAD].to(device.device()), output_matrix(self.chunks.parts[-1]))

    @torch.no_grad()
    def log_probs(self, micro_batches: Sequence[Batch], *, temperature: float = 1.0) -> list[Tensor]:
        """Return the fp32 log-probability of each label, [B, S] per micro-batch."""
        found: list[Tensor] = []
        for batch in micro_batches:
            logits_BSV_tp = self.logits(batch)
            scaled = logits_BSV_tp if temperature == 1.0 else logits_BSV_tp.float() / temperature
            found.append(vocab_parallel_log_probs(scaled, batch.to(device.device()).labels_BS, self.card.vocab_size))
        return found
