"""Encode documents in bulk: by an engine where there is one for the tokenizer, else by the library.

The engine proves itself on the documents it is given: the first of them, and every `GATE_STRIDE`th after, are also
encoded by the library, and the first difference switches the whole encoder back to it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from nanbeige_core.data import special_tokens as names
from nanbeige_core.data.encoding import byte_level
from nanbeige_core.data.encoding.engine import Encoded, Engine, describe
from nanbeige_core.data.indexed_dataset import token_dtype
from nanbeige_core.data.tokenizer import encode_documents

GATE_FIRST, GATE_STRIDE = 64, 1024
"""Documents of an encoder's life that are encoded both ways."""

BATCH_CHARACTERS = 1 << 22
"""Text encoded at a time; bounds memory."""

LIBRARY = "tokenizers"


class BulkEncoder:
    """Encodes documents, each followed by the end-of-text token. Not for use by two threads at once."""

    def __init__(self, tokenizer: Tokenizer, *, fast: bool = True) -> None:
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
        self.checked = 0
        self.mismatches = 0
        self.engine = choose_engine(describe(tokenizer), end, self.dtype) if fast else None

    @property
    def engine_name(self) -> str:
        """What encodes the next documents."""
        return self.engine.name if self.engine else LIBRARY

    def encode(self, texts: Sequence[str], *, controls: bool = False) -> Encoded:
        """Encode documents; with `controls` the name of a control token in a text is that token.

        Raises ValueError for a text that has no UTF-8 form.
        """
        _require_utf8(texts)
        pieces = [self._encode_some(texts[start:stop], controls) for start, stop in _spans(texts)]
        if not pieces:
            return Encoded(np.empty(0, self.dtype), np.empty(0, np.int64))
        return Encoded(np.concatenate([p.tokens for p in pieces]), np.concatenate([p.lengths for p in pieces]))

    def _encode_some(self, texts: Sequence[str], controls: bool) -> Encoded:
        if self.engine is None:
            return self._encode_by_library(texts, controls)
        found = self.engine.encode(texts, controls=controls)
        left = np.flatnonzero(found.lengths < 0)
        if len(left):
            found = _fill_in(
                found, left, self._encode_by_library([texts[number] for number in left.tolist()], controls)
            )
        first = self.documents
        self.documents += len(texts)
        sample = [n for n in range(len(texts)) if first + n < GATE_FIRST or (first + n) % GATE_STRIDE == 0]
        self.checked += len(sample)
        if sample and not self._agree(found, texts, sample, controls):
            self.mismatches += 1
            self.engine = None
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


def choose_engine(description: dict[str, Any], end: int, dtype: np.dtype[np.integer]) -> Engine | None:
    """Return the engine for a tokenizer (as the JSON of its file), or None: the library then encodes everything."""
    if not description["model"].get("byte_fallback"):
        return byte_level.make_engine(description, end, dtype)
    from nanbeige_core.data.encoding import byte_fallback  # a second of imports: the compiler of its kernels

    return byte_fallback.make_engine(description, end, dtype)


def _require_utf8(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts):
        try:
            _ = text.isascii() or text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"document {number} of {len(texts)} holds half of a surrogate pair at character {error.start}, so it "
                "has no UTF-8 form and no ids. Ingest drops such texts as broken_utf8: read it through that stage."
            ) from error


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
    """Yield ranges of documents that hold about `BATCH_CHARACTERS` of text."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield start, number + 1
            start, size = number + 1, 0
    if start < len(texts):
        yield start, len(texts)
