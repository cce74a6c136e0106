"""A second, frozen model in the training process: a distillation teacher, or the reference of a preference loss.

Legend: B sequence, S position, V vocabulary, _tp = local shard.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nanbeige_core.contract import Runtime
from nanbeige_core.megatron import device, parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenOutput
from nanbeige_core.megatron.model import build_model, forward_hidden, forward_logits
from nanbeige_core.megatron.vocab_parallel import mask_padding, vocab_parallel_log_probs
from nanbeige_core.megatron.weights import ModelCard, load_weights, read_model_card


class FrozenModel:
    """A model without optimizer, in eval mode, in the layout of the trainer it stands beside."""

    def __init__(self, model: Any, card: ModelCard) -> None:
        self.model = model
        self.card = card

    @classmethod
    def open(cls, weights_dir: Path, *, runtime: Runtime, seed: int = 0) -> Self:
        """Load the weights/ directory of a Checkpoint artifact, reading model.json beside it; collective.

        The tensor-parallel layout is the runtime's, so its vocabulary shards line up with the trainer's. Raises
        parallel.LayoutError at pipeline parallel > 1.
        """
        if runtime.pipeline_parallel != 1:
            raise parallel.LayoutError(
                f"runtime.pipeline_parallel is {runtime.pipeline_parallel}, a frozen model needs 1: its logits must "
                "exist on every rank that computes the loss. Use tensor_parallel, or cache the teacher's logits."
            )
        from megatron.core import parallel_state

        if not parallel_state.model_parallel_is_initialized():
            parallel.initialize(runtime, seed=seed)
        card = read_model_card(weights_dir.parent)
        model = build_model(card.model, vocab_size=card.vocab_size, runtime=runtime)
        load_weights(model, weights_dir)
        model.requires_grad_(False)
        return cls(model.eval(), card)

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, S, V_tp] without gradient, padded columns masked; Megatron's collectives over tp."""
        return mask_padding(forward_logits(self.model, batch.to(device.device())), self.card.vocab_size)

    @torch.no_grad()
    def hidden(self, batch: Batch) -> HiddenOutput:
        """Return hidden states [B, S, H] and this rank's rows of the output matrix, both without gradient."""
        return forward_hidden(self.model, batch.to(device.device()))

    @torch.no_grad()
    def log_probs(self, micro_batches: Sequence[Batch], *, temperature: float = 1.0) -> list[Tensor]:
        """Return the fp32 log-probability of each label, [B, S] per micro-batch."""
        found: list[Tensor] = []
        for batch in micro_batches:
            logits_BSV_tp = self.logits(batch)
            scaled = logits_BSV_tp if temperature == 1.0 else logits_BSV_tp.float() / temperature
            found.append(vocab_parallel_log_probs(scaled, batch.to(device.device()).labels_BS, self.card.vocab_size))
        return found
