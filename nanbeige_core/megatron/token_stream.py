"""One data set as an endless, exactly resumable stream of tokens.

A stream is epoch after epoch of the set's documents, each epoch in its own seeded order, end to end. A position in
it is one integer, so "go on where the last phase stopped" is a number in a ledger, no document comes a second time
before every other one came once, and nothing is dropped at the end of an epoch.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanbeige_core.megatron import device
from nanbeige_core.megatron.document_order import DocumentOrder, Epoch


class TokenStream:
    """Read any range of tokens of a Megatron indexed dataset in seeded document order."""

    def __init__(self, prefix: Path, *, seed: int, shuffle: bool = True) -> None:
        device.activate()
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        self.name = prefix.name
        self.documents: Any = IndexedDataset(str(prefix))
        # a copy: the dataset unmaps its file when it goes, and a kept view would then crash the process
        self.lengths: NDArray[np.int64] = np.array(self.documents.sequence_lengths, dtype=np.int64)
        self.order = DocumentOrder(self.name, self.lengths, seed=seed, shuffle=shuffle)
        self.tokens_per_epoch = self.order.tokens_per_epoch
        if self.tokens_per_epoch == 0:
            raise ValueError(f"{prefix}.bin holds no tokens: leave an empty set out of mixture.json")

    def read(self, position: int, count: int) -> NDArray[np.int64]:
        """Return `count` tokens from `position` on; epochs follow each other without a gap."""
        parts: list[NDArray[np.int64]] = []
        while count > 0:
            epoch, offset = divmod(position, self.tokens_per_epoch)
            taken = self._read_within(self.order.epoch(epoch), offset, min(count, self.tokens_per_epoch - offset))
            parts.append(taken)
            position, count = position + len(taken), count - len(taken)
        return np.concatenate(parts)

    def documents_between(self, start: int, stop: int) -> list[int]:
        """Return the document numbers that a range of the stream touches, in order (repeated over epochs)."""
        return self.order.between(start, stop)

    def _read_within(self, epoch: Epoch, offset: int, count: int) -> NDArray[np.int64]:
        taken = np.empty(count, dtype=np.int64)
        index = int(np.searchsorted(epoch.ends, offset, side="right"))
        filled = 0
        while filled < count:
            document = int(epoch.order[index])
            length = int(self.lengths[document])
            skip = offset + filled - (int(epoch.ends[index]) - length)
            piece = min(length - skip, count - filled)
            taken[filled : filled + piece] = self.documents.get(document, offset=skip, length=piece)
            filled, index = filled + piece, index + 1
        return taken
