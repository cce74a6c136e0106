"""A teacher's best tokens on disk, keyed by sample and position, so that packing and order stay free.

    header.json        teacher and tokenizer fingerprints, chat format, vocabulary size, K
    logits/keys.json   sample key -> [first row, rows]
    logits/positions.npy (N)   which token of its sample each row foretells
    logits/ids.npy (N, K)      int32, best first
    logits/log_probs.npy (N, K)  fp16

384 bytes a token at K = 64, where a whole bf16 row of a 166144 vocabulary takes 324 KB.
Shapes: B sequence, S position, N stored tokens, K kept tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from nanbeige_core.distill.pair_batches import EncodedPair
from nanbeige_core.distill.teaching import TOP_IDS, TOP_LOG_PROBS
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.sft.chat import EncodedSample, render

CHAT_FORMAT = hashlib.sha256(
    render([{"role": "user", "content": "u"}, {"role": "assistant", "content": "a", "reasoning": "r"}]).encode()
).hexdigest()[:16]
"""Changes with the chat format: the same words in another frame are other distributions."""


class CacheError(ValueError):
    """Report teacher logits that do not belong to these pairs, this tokenizer or this configuration."""


class CacheHeader(NamedTuple):
    """What header.json says."""

    teacher: str
    tokenizer_fingerprint: str
    vocab_size: int
    chat_format: str
    top_k: int


class SampleTops(NamedTuple):
    """One sample's supervised tokens: their indices in the sample, and the teacher's K best for each."""

    positions: NDArray[np.int32]
    ids: NDArray[np.int32]
    log_probs: NDArray[np.float16]


def sample_key(sample: EncodedSample) -> str:
    """Return 32 hex digits of the sample's token ids."""
    return hashlib.sha256(np.array(sample.ids, dtype=np.int32).tobytes()).hexdigest()[:32]


def supervised_positions(sample: EncodedSample) -> list[int]:
    """Return the indices of the tokens that are to be learned; the first token is never one."""
    return [index for index, flag in enumerate(sample.mask) if flag and index]


def write_cache(directory: Path, header: CacheHeader, samples: dict[str, SampleTops]) -> None:
    """Write a TeacherLogits artifact's files."""
    (directory / "logits").mkdir(parents=True, exist_ok=True)
    keys: dict[str, list[int]] = {}
    first = 0
    for key, tops in samples.items():
        keys[key] = [first, len(tops.positions)]
        first += len(tops.positions)
    for name in SampleTops._fields:
        np.save(
            directory / "logits" / f"{name}.npy", np.concatenate([getattr(tops, name) for tops in samples.values()])
        )
    (directory / "logits" / "keys.json").write_text(json.dumps(keys) + "\n")
    (directory / "header.json").write_text(json.dumps(header._asdict(), indent=1) + "\n")


class TeacherCache:
    """An opened TeacherLogits artifact, memory-mapped."""

    def __init__(self, directory: Path, header: CacheHeader, keys: dict[str, list[int]]) -> None:
        self.directory, self.header, self._keys = directory, header, keys
        self._arrays: dict[str, Any] = {
            name: np.load(directory / "logits" / f"{name}.npy", mmap_mode="r") for name in SampleTops._fields
        }

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the artifact's directory."""
        header = CacheHeader(**json.loads((directory / "header.json").read_text()))
        return cls(directory, header, json.loads((directory / "logits" / "keys.json").read_text()))

    def require(self, *, tokenizer_fingerprint: str, vocab_size: int, top_k: int) -> None:
        """Refuse a cache made for another tokenizer or chat format, or with fewer tokens than asked for."""
        wanted = (tokenizer_fingerprint, vocab_size, CHAT_FORMAT)
        found = (self.header.tokenizer_fingerprint, self.header.vocab_size, self.header.chat_format)
        if found != wanted:
            raise CacheError(
                f"{self.directory} was made for (tokenizer, vocabulary, chat format) {found}, the student has "
                f"{wanted}: cached tokens would be other tokens. Run teacher_logits with the student's tokenizer."
            )
        if not 0 < top_k <= self.header.top_k:
            raise CacheError(
                f"teacher_top_k is {top_k}, {self.directory} holds the {self.header.top_k} best tokens: expected 1 to "
                f"{self.header.top_k}. Set dpd.teacher_top_k, or raise teacher_logits.top_k."
            )

    def tops(self, sample: EncodedSample) -> SampleTops:
        """Return one sample's rows; raises CacheError when it was not cached or its mask was another."""
        if (found := self._keys.get(sample_key(sample))) is None:
            raise CacheError(
                f"{self.directory} holds {len(self._keys)} samples, none with the {len(sample.ids)} ids "
                f"{sample.ids[:8]}...: pairs and teacher_logits must come from the same preference_pairs stage."
            )
        first, rows = found
        tops = SampleTops(*(self._arrays[name][first : first + rows] for name in SampleTops._fields))
        if tops.positions.tolist() != supervised_positions(sample):
            raise CacheError(
                f"{self.directory}: a sample's cached positions are not the supervised ones: it was encoded with "
                "another loss mask. Make the teacher_logits stage anew."
            )
        return tops

    def attach(
        self, batch: Batch, pairs: Sequence[EncodedPair], members: Sequence[Sequence[int]], *, top_k: int
    ) -> None:
        """Give a packed batch the teacher's tokens at the positions that foretell supervised ones."""
        rows, width = batch.tokens_BS.shape
        ids_BSK = torch.zeros(rows, width, top_k, dtype=torch.long)
        log_p_BSK = torch.full((rows, width, top_k), -torch.inf)
        for row, indices in enumerate(members):
            start = 0
            for sample in (sample for index in indices for sample in pairs[index]):
                tops = self.tops(sample)
                places = torch.from_numpy(tops.positions.astype(np.int64)) + start - 1
                ids_BSK[row, places] = torch.from_numpy(tops.ids[:, :top_k].astype(np.int64))
                log_p_BSK[row, places] = torch.from_numpy(tops.log_probs[:, :top_k].astype(np.float32))
                start += len(sample.ids)
        batch.extra |= {TOP_IDS: ids_BSK, TOP_LOG_PROBS: log_p_BSK}
