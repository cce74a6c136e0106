"""Bulk encoding by compiled kernels: the byte-fallback BPE that this project trains."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from nanbeige_core.data import special_tokens as names
from nanbeige_core.data.encoding import kernels, merging, scanning
from nanbeige_core.data.encoding.engine import Encoded, is_plain
from nanbeige_core.data.tokenizer import SPLIT_PATTERN

CACHED_PIECES = 1 << 20
FRONT_ROWS = 1 << 16
"""The most frequent short pieces, one cache line each."""


def make_engine(description: dict[str, Any], end: int, dtype: np.dtype[np.integer]) -> "ByteFallbackEngine | None":
    """Return an engine for a tokenizer (as the JSON of its file), or None for one of another kind."""
    return ByteFallbackEngine(description, end, dtype) if _is_ours(description) else None


class ByteFallbackEngine:
    """Holds what the kernels look up, and the pieces met so far."""

    name = "compiled kernels"

    def __init__(self, description: dict[str, Any], end: int, dtype: np.dtype[np.integer]) -> None:
        """Build the tables of a tokenizer."""
        vocabulary: dict[str, int] = description["model"]["vocab"]
        self.end = end
        self.dtype = dtype
        added = description["added_tokens"]
        self.matched = {
            controls: {token["content"]: int(token["id"]) for token in added if controls or not token["special"]}
            for controls in (False, True)
        }
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
        self.merge_keys = np.full(size, merging.NO_MERGE, np.uint64)
        self.merge_values = np.zeros(size, np.uint64)
        merging.fill_merges(pairs, made, self.merge_keys, self.merge_values)
        self.front = np.zeros((FRONT_ROWS, kernels.FRONT_WORDS), np.uint64)
        self.slots = np.full(2 * CACHED_PIECES, -1, np.int64)
        self.arena = np.empty(12 * CACHED_PIECES, np.uint8)
        self.spans = np.empty((CACHED_PIECES, 4), np.int32)
        self.pool = np.empty(6 * CACHED_PIECES, np.int32)
        self.used = np.zeros(3, np.int64)

    def encode(self, texts: Sequence[str], *, controls: bool) -> Encoded:
        """Encode documents, as `Engine.encode` says; one with a piece that is too long is left to the library."""
        encoded = [text.encode() for text in texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        offsets[1:] = np.cumsum([len(item) for item in encoded])
        joined = b"".join(encoded)
        cuts = _find_cuts(joined, offsets, self.matched[controls])
        tokens = np.empty(len(joined) + len(texts), self.dtype)
        lengths = np.empty(len(texts), np.int64)
        written = kernels.encode_batch(
            np.frombuffer(joined, np.uint8), offsets, cuts, self.end, self.classes, self.characters, self.byte_ids,
            self.merge_keys, self.merge_values, self.front, self.slots, self.arena, self.spans, self.pool, self.used,
            tokens, lengths,
        )  # fmt: skip
        return Encoded(tokens[:written].copy(), lengths)


def _is_ours(description: dict[str, Any]) -> bool:
    model, split = description["model"], description["pre_tokenizer"] or {}
    return (
        is_plain(description)
        and bool(model["byte_fallback"])
        and not model.get("ignore_merges")
        and description["normalizer"] is None
        and split.get("type") == "Split"
        and split.get("pattern") == {"Regex": SPLIT_PATTERN}
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and all(name in model["vocab"] for name in names.BYTES)
    )


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
    classes = np.full(0x110000, scanning.OTHER, np.uint8)
    classes[position] = 0
    for pattern, bit in (
        (r"\p{N}+", scanning.NUMBER),
        (r"\p{Han}+", scanning.HAN),
        (r"[\p{L}\p{M}_]+", scanning.WORD),
        (r"\s+", scanning.SPACE),
        (r"[^\s\p{L}\p{M}\p{N}_\\]+", scanning.OTHER),
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
