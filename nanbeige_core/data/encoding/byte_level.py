"""Bulk encoding by gigatoken: byte-level BPE with one of the published splits (GPT-2, Llama 3, Qwen, o200k, ...).

Documents go through it as one text, divided by an added token of their own, so that one flat array comes back and
nothing is done per document.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from tokenizers import pre_tokenizers

from nanbeige_core.data.encoding.engine import LEFT, Encoded, is_plain

if TYPE_CHECKING:
    from gigatoken.gigatoken_rs import BPETokenizer

SEPARATOR = "\U0010fffe"
"""A noncharacter of Unicode, which no text means; a document that holds it is left to the library."""
_SEPARATOR_BYTES = SEPARATOR.encode()


def make_engine(description: dict[str, Any], end: int, dtype: np.dtype[np.integer]) -> "ByteLevelEngine | None":
    """Return an engine for a tokenizer (as the JSON of its file), or None for one of another kind."""
    if not _is_byte_level(description):
        return None
    try:
        return ByteLevelEngine(description, end, dtype)
    except RuntimeError:  # the library's word for a split that it has no scanner for
        return None


class ByteLevelEngine:
    """Encodes by gigatoken on the calling thread."""

    name = "gigatoken"

    def __init__(self, description: dict[str, Any], end: int, dtype: np.dtype[np.integer]) -> None:
        """Load the tokenizer; raises RuntimeError when gigatoken cannot."""
        self._description = description
        self._end = end
        self._dtype = dtype
        ids = (*description["model"]["vocab"].values(), *(token["id"] for token in description["added_tokens"]))
        self._separator = max(ids) + 1
        # some tokenizers lack bytes that their training text did not have; gigatoken wants all of them
        lacking = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - description["model"]["vocab"].keys())
        self._lacking = {symbol: self._separator + number for number, symbol in enumerate(lacking, 1)}
        self._plain = self._load(controls=False)
        self._with_controls: BPETokenizer | None = None

    def encode(self, texts: Sequence[str], *, controls: bool) -> Encoded:
        """Encode documents, as `Engine.encode` says."""
        left = np.array([SEPARATOR in text for text in texts], np.bool_)
        if left.any():
            texts = ["" if SEPARATOR in text else text for text in texts]
        # joined as bytes: one text of characters would take four bytes for each, the separator being so high
        ids = self._backend(controls).encode(_SEPARATOR_BYTES.join([*(text.encode() for text in texts), b""]))
        ends = np.flatnonzero(ids == self._separator)
        if self._lacking:
            left[np.searchsorted(ends, np.flatnonzero(ids > self._separator))] = True
        ids[ends] = self._end
        lengths = np.diff(ends, prepend=-1)
        if left.any():
            return Encoded(ids[np.repeat(~left, lengths)].astype(self._dtype), np.where(left, LEFT, lengths))
        return Encoded(ids.astype(self._dtype), lengths)

    def _backend(self, controls: bool) -> "BPETokenizer":
        if not controls:
            return self._plain
        if self._with_controls is None:
            self._with_controls = self._load(controls=True)
        return self._with_controls

    def _load(self, *, controls: bool) -> "BPETokenizer":
        # gigatoken matches every added token it is told of, so those that are text must be kept from it
        from gigatoken.gigatoken_rs import load_hf_json

        added = [token for token in self._description["added_tokens"] if controls or not token["special"]]
        separator = {"id": self._separator, "content": SEPARATOR, "special": True, "normalized": False}
        model = self._description["model"]
        model = model | {"vocab": model["vocab"] | self._lacking}
        text = json.dumps(self._description | {"added_tokens": [*added, separator], "model": model})
        return cast("BPETokenizer", load_hf_json(text))


def _is_byte_level(description: dict[str, Any]) -> bool:
    """Tell a tokenizer of which gigatoken silently ignores nothing."""
    split = description["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = split.get("pretokenizers", [split])
    *splits, last = steps
    return (
        is_plain(description)
        and not description["model"]["byte_fallback"]
        and (description["normalizer"] or {"type": "NFC"}).get("type") == "NFC"
        and last.get("type") == "ByteLevel"
        and bool(last.get("use_regex")) == (not splits)
        and all(s["type"] == "Split" and s["behavior"] == "Isolated" and not s["invert"] for s in splits)
    )
