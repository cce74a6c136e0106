"""How many rows the embedding of a model has, which follows from its tokenizer alone."""

VOCABULARY_MULTIPLE = 128
"""Rows of the embedding are padded to this multiple whatever the layout, so that checkpoints do not depend on it."""


def padded_vocab_size(vocab_size: int) -> int:
    """Return the vocabulary size rounded up to VOCABULARY_MULTIPLE."""
    return -(-vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
