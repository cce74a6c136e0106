"""Megatron's indexed dataset files, written and read with numpy: byte for byte what its own builder writes.

`.bin` holds the token ids of all documents end to end. `.idx` holds a header, the length and byte offset of each
sequence, and the sequence number at which each document starts (here one sequence is one document).
"""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES: dict[str, int] = {"uint16": 8, "int32": 4}
SMALL_VOCABULARY = 65500
"""Below this Megatron stores ids in 16 bits."""


class IndexedDataset(NamedTuple):
    """A dataset read back: all token ids, and the start of each document among them (one more than documents)."""

    tokens: NDArray[np.integer]
    starts: NDArray[np.int64]


class IndexedDatasetError(ValueError):
    """The pair of files is not a readable indexed dataset."""


def token_dtype(vocab_size: int) -> np.dtype[np.integer]:
    """Return the type that Megatron would choose for a vocabulary."""
    return np.dtype(np.uint16) if vocab_size < SMALL_VOCABULARY else np.dtype(np.int32)


class IndexedDatasetWriter:
    """Writes `prefix.bin` and `prefix.idx` piece by piece; neither is there before `close`, each is then complete."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        """Open the file of tokens under a temporary name."""
        self._prefix = prefix
        self._dtype = token_dtype(vocab_size)
        self._lengths: list[NDArray[np.int32]] = []
        self._stream = self._part("bin").open("wb")

    def append(self, tokens: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
        """Add documents: their tokens end to end, and the length of each."""
        self._stream.write(tokens.astype(self._dtype, copy=False).data)
        self._lengths.append(lengths.astype(np.int32))

    def close(self) -> int:
        """Commit both files and return the number of tokens."""
        self._stream.close()
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64) * self._dtype.itemsize
        pointers = np.concatenate([np.zeros(1, np.int64), ends[:-1]]) if len(lengths) else np.empty(0, np.int64)
        boundaries = np.arange(len(lengths) + 1, dtype=np.int64)
        header = MAGIC + struct.pack("<QBQQ", VERSION, DTYPE_CODES[self._dtype.name], len(lengths), len(boundaries))
        self._part("idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + boundaries.tobytes())
        for kind in ("bin", "idx"):
            os.replace(self._part(kind), self._prefix.with_name(f"{self._prefix.name}.{kind}"))
        return int(lengths.sum(dtype=np.int64))

    def _part(self, kind: str) -> Path:
        return self._prefix.with_name(f".{self._prefix.name}.{kind}.part")


def write_indexed_dataset(
    prefix: Path,
    documents: Sequence[NDArray[np.integer]],
    vocab_size: int,
    *,
    lengths: NDArray[np.integer] | None = None,
) -> int:
    """Write `prefix.bin` and `prefix.idx`, atomically each, and return the number of tokens.

    With `lengths`, the arrays are any pieces of the token stream, and `lengths` says where documents end in it.
    """
    if lengths is None:
        lengths = np.array([len(document) for document in documents], dtype=np.int32)
    writer = IndexedDatasetWriter(prefix, vocab_size)
    writer.append(np.concatenate(documents) if len(documents) else np.empty(0, np.int32), lengths)
    return writer.close()


def read_indexed_dataset(prefix: Path) -> IndexedDataset:
    """Memory-map a dataset; raises IndexedDatasetError when the header is foreign or the sizes disagree."""
    index_path, bin_path = prefix.with_name(prefix.name + ".idx"), prefix.with_name(prefix.name + ".bin")
    content = index_path.read_bytes()
    head = len(MAGIC) + struct.calcsize("<QBQQ")
    if content[: len(MAGIC)] != MAGIC or len(content) < head:
        raise IndexedDatasetError(f"{index_path}: no Megatron indexed dataset header. Rebuild the mixture.")
    _, code, sequences, _ = struct.unpack("<QBQQ", content[len(MAGIC) : head])
    names = {value: name for name, value in DTYPE_CODES.items()}
    if code not in names:
        raise IndexedDatasetError(f"{index_path}: token type code {code}, expected one of {sorted(names)}.")
    if sequences > (len(content) - head) // 4:
        raise IndexedDatasetError(f"{index_path}: cut off, it promises {sequences} sequences. Rebuild the mixture.")
    lengths = np.frombuffer(content, np.int32, sequences, head)
    if sequences and lengths.min() < 0:
        raise IndexedDatasetError(f"{index_path}: a sequence of negative length. Rebuild the mixture.")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    dtype = np.dtype(names[code])
    if bin_path.stat().st_size != starts[-1] * dtype.itemsize:
        raise IndexedDatasetError(
            f"{bin_path}: {bin_path.stat().st_size} bytes, its index says {starts[-1] * dtype.itemsize}. "
            "The file is cut off or belongs to another index: rebuild the mixture."
        )
    tokens = np.memmap(bin_path, dtype, "r") if starts[-1] else np.empty(0, dtype)
    return IndexedDataset(tokens, starts)
