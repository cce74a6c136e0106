"""What an engine of bulk encoding is, and what it returns."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

LEFT = -1
"""Length of a document that an engine leaves to the library."""


class Encoded(NamedTuple):
    """Token ids of documents end to end, and how many each has."""

    tokens: NDArray[np.integer]
    lengths: NDArray[np.int64]


class Engine(Protocol):
    """Encodes faster than the library what the library encodes. Not for use by two threads at once."""

    name: str

    def encode(self, texts: Sequence[str], *, controls: bool) -> Encoded:
        """Encode documents that have a UTF-8 form, each followed by the end-of-text token.

        With `controls` the name of a control token in a text is that token; without, only added tokens that are not
        special are matched. A document may be left to the library: its length is then LEFT, and it has no ids.
        """
        ...


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return a tokenizer as the JSON of its file."""
    return cast("dict[str, Any]", json.loads(tokenizer.to_str()))


def is_plain(description: dict[str, Any]) -> bool:
    """Tell a BPE of merges alone, whose added tokens are matched exactly as they are written."""
    model = description["model"]
    return (
        model["type"] == "BPE"
        and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
        and not any(
            token[option]
            for token in description["added_tokens"]
            for option in ("normalized", "lstrip", "rstrip", "single_word")
        )
    )
