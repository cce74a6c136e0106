"""Log-probabilities of the frozen reference, computed once with the packing that training uses.

The reference is the student before its first step. Rows keep their place in a file on the shared scratch directory,
so every rank can take any row of any epoch, and a resumed run reads what the first one wrote.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nanbeige_core.distill.label_scores import head_label_scores
from nanbeige_core.distill.pair_batches import EncodedPair, make_pair_batches
from nanbeige_core.distill.vocabulary import VocabularyShard
from nanbeige_core.launch.ranks import barrier, rank
from nanbeige_core.megatron import parallel
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenLoss, HiddenOutput, chunk_spans
from nanbeige_core.megatron.trainer import Trainer


class ReferenceLogProbs:
    """One fp32 number per label of every packed row, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Open a finished file read-only."""
        self._rows = np.load(path, mmap_mode="r")

    def rows(self, numbers: Sequence[int]) -> torch.Tensor:
        """Return the log-probabilities of some rows (B, S); an empty row (negative number) is zero."""
        taken = [self._rows[number] if number >= 0 else np.zeros_like(self._rows[0]) for number in numbers]
        return torch.from_numpy(np.stack(taken))


def reference_log_probs(
    trainer: Trainer,
    pairs: Sequence[EncodedPair],
    bins: Sequence[Sequence[int]],
    *,
    sequence_length: int,
    micro_batch_size: int,
    chunk: int,
    path: Path,
) -> ReferenceLogProbs:
    """Compute the reference of every row and write it to `path`, or open it when it is there; collective.

    Must be called before the first training step and before a resume point is loaded.
    """
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        if rank() == 0:
            np.lib.format.open_memmap(partial, "w+", np.float32, (len(bins), sequence_length)).flush()
        barrier()
        _fill(partial, trainer, pairs, bins, (sequence_length, micro_batch_size, chunk))
        barrier()
        if rank() == 0:
            partial.rename(path)
        barrier()
    return ReferenceLogProbs(path)


def _fill(
    path: Path,
    trainer: Trainer,
    pairs: Sequence[EncodedPair],
    bins: Sequence[Sequence[int]],
    sizes: tuple[int, int, int],
) -> None:
    sequence_length, micro_batch_size, chunk = sizes
    numbers = range(trainer.data_rank, len(bins), trainer.data_size)
    batches = make_pair_batches(
        pairs,
        [bins[number] for number in numbers],
        sequence_length=sequence_length,
        micro_batch_size=micro_batch_size,
    )
    if not batches:
        return
    measured = trainer.measure(batches, _supervised_log_probs(chunk, trainer.vocab_size))
    if not measured:
        return
    file = np.lib.format.open_memmap(path, "r+")
    log_probs_NS = torch.cat([entry["log_probs"] for entry in measured]).cpu().numpy()
    for number, log_probs_S in zip(numbers, log_probs_NS, strict=True):
        file[number] = log_probs_S
    file.flush()


def _supervised_log_probs(chunk: int, vocab_size: int) -> HiddenLoss:
    """Measure as training will: the same positions in the same chunks, so that the first margin is zero."""

    def measure(output: HiddenOutput, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        keep_BS = batch.extra["side_BS"] != 0
        hidden_TH, labels_T = output.hidden_BSH[keep_BS], batch.labels_BS[keep_BS]
        spans = chunk_spans(len(labels_T), chunk)
        shard = VocabularyShard(vocab_size, parallel.tensor_group())
        found_T = head_label_scores(hidden_TH, output.weight_VH_tp, labels_T, spans, shard).log_probs_T
        log_probs_BS = found_T.new_zeros(keep_BS.shape).masked_scatter(keep_BS, found_T)
        return log_probs_BS.sum(), {"log_probs": log_probs_BS}

    return HiddenLoss(measure)
