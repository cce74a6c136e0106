"""Proof of the loss mask: what the loss really saw of a few samples, decoded and kept in the checkpoint's artifact.

A mask is easy to get wrong and its loss still falls, so the decoded text is compared with what the assistant says in
the rows that were read, and a stage whose mask supervises anything else stops before its first step.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanbeige_core.sft.chat import EncodesText, Message, render, supervised_text, supervised_turns
from nanbeige_core.sft.samples import PackedSamples, SftRow

SUPERVISED = "supervised.jsonl"
"""One line per proven sample: id, domain, token counts, the text without loss and the text with it."""


def prove_supervision(
    tokenizer: EncodesText, rows: Sequence[SftRow], packed: PackedSamples, *, count: int
) -> list[dict[str, Any]]:
    """Return what the loss sees of `count` packed samples, spread evenly over the data set.

    Raises ValueError naming the sample whose decoded supervised tokens are not exactly what its assistant turns say,
    end tokens included; of a truncated sample they must be the beginning of it.
    """
    messages = {row.id: row.messages for row in rows}
    chosen = [index * len(packed.samples) // count for index in range(min(count, len(packed.samples)))]
    return [_prove(tokenizer, messages[packed.ids[index]], packed, index) for index in chosen]


def write_supervision(directory: Path, proven: Sequence[dict[str, Any]]) -> None:
    """Write the proven samples beside the weights."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in proven]
    (directory / SUPERVISED).write_text("".join(lines), encoding="utf-8")


def _prove(tokenizer: EncodesText, messages: Sequence[Message], packed: PackedSamples, index: int) -> dict[str, Any]:
    sample = packed.samples[index]
    seen, said = supervised_text(tokenizer, sample), "".join(supervised_turns(messages))
    whole = len(tokenizer.encode(render(messages), add_special_tokens=False)) == len(sample.ids)
    # a cut may fall inside a character
    if seen != said and (whole or not said.startswith(seen.rstrip("\ufffd"))):
        raise ValueError(
            f"sample {packed.ids[index]}: the loss would see {seen[:200]!r}, the assistant says {said[:200]!r}; "
            "expected them to be equal, because a mask that covers anything else trains on the wrong text. The "
            "tokenizer does not decode to what it encoded: use one that is lossless."
        )
    hidden = [token for token, flag in zip(*sample, strict=True) if not flag]
    return {
        "id": packed.ids[index],
        "domain": packed.domains[index],
        "tokens": len(sample.ids),
        "supervised_tokens": sum(sample.mask),
        "truncated": not whole,
        "not_supervised": str(tokenizer.decode(hidden, skip_special_tokens=False)),
        "supervised": seen,
    }
