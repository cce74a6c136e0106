"""Encode documents in bulk: compiled for the project's own tokenizers, by the library for any other.

The compiled path proves itself on the documents it is given: the first of them, and every `GATE_STRIDE`th after, are
also encoded by the library, and the first difference switches the whole encoder back to it.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, pre_tokenizers

from nanbeige_core.data import encoding_kernels as kernels
from nanbeige_core.data import special_tokens as names
from nanbeige_core.data.indexed_dataset import token_dtype
from nanbeige_core.data.tokenizer import SPLIT_PATTERN, encode_documents

GATE_FIRST, GATE_STRIDE = 64, 512
"""Documents of an encoder's life that are encoded both ways."""

ADDED_TOKEN_OPTIONS = ("normalized", "lstrip", "rstrip", "single_word")
"""With any of them an added token is matched in ways that the compiled path does not know."""

CACHED_PIECES = 1 << 20
FRONT_ROWS = 1 << 16
"""The most frequent short pieces, one cache line each."""

BATCH_BYTES = 1 << 22
"""Text encoded at a time; bounds memory."""


class Encoded(NamedTuple):
    """Token ids of documents end to end, and how many each has."""

    tokens: NDArray[np.integer]
    lengths: NDArray[np.int64]


class BulkEncoder:
    """Encodes documents, each followed by the end-of-text token. Not for use by two threads at once."""

    def __init__(self, tokenizer: Tokenizer, *, compiled: bool = True) -> None:
        """Prepare for a tokenizer; raises ValueError when it has no end-of-text token."""
        end = tokenizer.token_to_id(names.END_OF_TEXT)
        if end is None:
            raise ValueError(
                f"the tokenizer has no {names.END_OF_TEXT} token, which ends every document. Use a Tokenizer artifact."
            )
        self.tokenizer = tokenizer
        self.end = end
        self.dtype = token_dtype(tokenizer.get_vocab_size())
        self.documents = 0
        self.mismatches = 0
        description = json.loads(tokenizer.to_str())
        self.tables = _Tables(description, self.dtype) if compiled and is_compilable(description) else None
        # plain text still meets the added tokens that are not special: the library matches those everywhere
        added = description["added_tokens"]
        self.matched = {
            controls: {token["content"]: int(token["id"]) for token in added if controls or not token["special"]}
            for controls in (False, True)
        }

    def encode(self, texts: Sequence[str], *, controls: bool = False) -> Encoded:
        """Encode documents; with `controls` the name of a control token in a text is that token."""
        pieces = [self._encode_some(texts[start:stop], controls) for start, stop in _spans(texts)]
        if not pieces:
            return Encoded(np.empty(0, self.dtype), np.empty(0, np.int64))
        return Encoded(np.concatenate([p.tokens for p in pieces]), np.concatenate([p.lengths for p in pieces]))

    def _encode_some(self, texts: Sequence[str], controls: bool) -> Encoded:
        if self.tables is None:
            return self._encode_by_library(texts, controls)
        found = self.tables.encode(texts, self.matched[controls], self.end)
        left = np.flatnonzero(found.lengths < 0)
        if len(left):
            found = _fill_in(
                found, left, self._encode_by_library([texts[number] for number in left.tolist()], controls)
            )
        first = self.documents
        self.documents += len(texts)
        sample = [n for n in range(len(texts)) if first + n < GATE_FIRST or (first + n) % GATE_STRIDE == 0]
        if sample and not self._agree(found, texts, sample, controls):
            self.mismatches += 1
            self.tables = None
            return self._encode_by_library(texts, controls)
        return found

    def _agree(self, found: Encoded, texts: Sequence[str], sample: list[int], controls: bool) -> bool:
        expected = self._encode_by_library([texts[number] for number in sample], controls)
        ends = np.cumsum(found.lengths)
        chosen = [found.tokens[ends[n] - found.lengths[n] : ends[n]] for n in sample]
        return np.array_equal(np.concatenate(chosen), expected.tokens)

    def _encode_by_library(self, texts: Sequence[str], controls: bool) -> Encoded:
        rows = encode_documents(self.tokenizer, list(texts), plain=not controls)
        lengths = np.array([len(row) + 1 for row in rows], np.int64)
        tokens = np.fromiter((token for row in rows for token in (*row, self.end)), self.dtype, int(lengths.sum()))
        return Encoded(tokens, lengths)


def is_compilable(description: dict[str, Any]) -> bool:
    """Tell whether a tokenizer (as the JSON of its file) is of the kind that this project trains."""
    model, split = description["model"], description["pre_tokenizer"] or {}
    return (
        model["type"] == "BPE"
        and bool(model["byte_fallback"])
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not model.get("ignore_merges")
        and description["normalizer"] is None
        and split.get("type") == "Split"
        and split.get("pattern") == {"Regex": SPLIT_PATTERN}
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and all(name in model["vocab"] for name in names.BYTES)
        and not any(
            t["normalized"] or t["lstrip"] or t["rstrip"] or t["single_word"] for t in description["added_tokens"]
        )
    )


class _Tables:
    """What the kernels look up, and the pieces met so far."""

    def __init__(self, description: dict[str, Any], dtype: np.dtype[np.integer]) -> None:
        vocabulary: dict[str, int] = description["model"]["vocab"]
        self.dtype = dtype
        self.classes = _classes()
        self.characters = np.full(0x110000, -1, np.int32)
        for piece, number in vocabulary.items():
            if len(piece) == 1:
                self.characters[ord(piece)] = number
        self.byte_ids = np.array([vocabulary[name] for name in names.BYTES], np.int32)
        merges: list[list[str]] = description["model"]["merges"]
        pairs = np.array([[vocabulary[a], vocabulary[b]] for a, b in merges], np.int64).reshape(-1, 2)
        made = np.array([vocabulary[a + b] for a, b in merges], np.int64)
        size = 1 << max(4, (2 * len(merges)).bit_length())
        self.merge_keys = np.full(size, kernels.NO_MERGE, np.uint64)
        self.merge_values = np.zeros(size, np.uint64)
        kernels.fill_merges(pairs, made, self.merge_keys, self.merge_values)
        self.front = np.zeros((FRONT_ROWS, kernels.FRONT_WORDS), np.uint64)
        self.slots = np.full(2 * CACHED_PIECES, -1, np.int64)
        self.arena = np.empty(12 * CACHED_PIECES, np.uint8)
        self.spans = np.empty((CACHED_PIECES, 4), np.int32)
        self.pool = np.empty(6 * CACHED_PIECES, np.int32)
        self.used = np.zeros(3, np.int64)

    def encode(self, texts: Sequence[str], matched: Mapping[str, int], end: int) -> Encoded:
        """Encode texts; one with a piece that is too long gets length -1."""
        encoded = [text.encode("utf-8", errors="replace") for text in texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        offsets[1:] = np.cumsum([len(item) for item in encoded])
        joined = b"".join(encoded)
        cuts = _find_cuts(joined, offsets, matched)
        tokens = np.empty(len(joined) + len(texts), self.dtype)
        lengths = np.empty(len(texts), np.int64)
        written = kernels.encode_batch(
            np.frombuffer(joined, np.uint8), offsets, cuts, end, self.classes, self.characters, self.byte_ids,
            self.merge_keys, self.merge_values, self.front, self.slots, self.arena, self.spans, self.pool, self.used,
            tokens, lengths,
        )  # fmt: skip
        return Encoded(tokens[:written].copy(), lengths)


def _classes() -> NDArray[np.uint8]:
    """Return the class of every code point; asking for them takes a second, so they are kept like compiled kernels."""
    path = Path(__file__).with_name("__pycache__") / f"classes-{tokenizers.__version__}.npy"
    try:
        return np.load(path)
    except (OSError, ValueError):
        classes = _ask_classes()
    temporary = path.with_suffix(f".{os.getpid()}.part")
    # where the package cannot be written to, as in an image, they are asked for again each time
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as stream:
            np.save(stream, classes)
        os.replace(temporary, path)
    return classes


def _ask_classes() -> NDArray[np.uint8]:
    """Return the class of every code point, asked of the library itself, whose Unicode version thus decides.

    The planes that are left out hold no letter, number or space in any version: private use and unassigned.
    """
    points = [*range(0xD800), *range(0xE000, 0x34000), *range(0xE0000, 0xE0200)]
    text = "".join(map(chr, points))
    position = np.array(points)
    classes = np.full(0x110000, kernels.OTHER, np.uint8)
    classes[position] = 0
    for pattern, bit in (
        (r"\p{N}+", kernels.NUMBER),
        (r"\p{Han}+", kernels.HAN),
        (r"[\p{L}\p{M}_]+", kernels.WORD),
        (r"\s+", kernels.SPACE),
        (r"[^\s\p{L}\p{M}\p{N}_\\]+", kernels.OTHER),
    ):
        split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
        for _, (start, end) in split.pre_tokenize_str(text):
            classes[position[start:end]] |= np.uint8(bit)
    return classes


def _find_cuts(joined: bytes, offsets: NDArray[np.int64], matched: Mapping[str, int]) -> NDArray[np.int64]:
    """Return where added tokens stand [C, 3]: first byte, byte after, id; the leftmost, and of those the longest."""
    found: list[tuple[int, int, int]] = []
    for name, number in matched.items():
        raw = name.encode()
        at = joined.find(raw)
        while at >= 0:
            if at + len(raw) <= offsets[np.searchsorted(offsets, at, "right")]:
                found.append((at, -len(raw), number))
            at = joined.find(raw, at + 1)
    cuts: list[tuple[int, int, int]] = []
    for at, size, number in sorted(found):
        if not cuts or at >= cuts[-1][1]:
            cuts.append((at, at - size, number))
    return np.array(cuts, np.int64).reshape(-1, 3)


def _fill_in(found: Encoded, left: NDArray[np.int64], more: Encoded) -> Encoded:
    """Put the documents `left`, which have length -1, into their places."""
    lengths = found.lengths.copy()
    lengths[left] = more.lengths
    tokens = np.empty(int(lengths.sum()), found.tokens.dtype)
    missing = np.zeros(len(lengths), bool)
    missing[left] = True
    place = np.repeat(missing, lengths)
    tokens[place], tokens[~place] = more.tokens, found.tokens
    return Encoded(tokens, lengths)


def _spans(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ranges of documents that hold about `BATCH_BYTES` of text."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_BYTES:
            yield start, number + 1
            start, size = number + 1, 0
    if start < len(texts):
        yield start, len(texts)
