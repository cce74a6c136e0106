"""Read an SFTDataset and turn it into packed sequences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nanbeige_core.data.tables import read_rows
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.sft.chat import EncodedSample, EncodesText, encode_sample, parse_messages
from nanbeige_core.sft.packing import Overflow, fit_window, make_batches, pack_best_fit

COLUMNS = ("id", "domain", "messages")


class SftRow(NamedTuple):
    """One conversation of an SFTDataset."""

    id: str
    domain: str
    messages: list[dict[str, Any]]


class PackedSamples(NamedTuple):
    """Encoded samples that fit the window, their domains, which of them share a sequence, and the ids of all."""

    samples: list[EncodedSample]
    domains: list[str]
    bins: list[list[int]]
    supervised_in_bin: list[int]
    dropped: int
    truncated: int
    ids: list[str]
    left_out: list[str]

    @property
    def fill(self) -> float:
        """Return the mean tokens per sequence."""
        return sum(len(sample.ids) for sample in self.samples) / max(1, len(self.bins))


def load_samples(table: Path) -> list[SftRow]:
    """Read `samples.parquet` or `validation.parquet` of an SFTDataset.

    Raises data.tables.TableError when the file or a column is missing.
    """
    return [SftRow(row["id"], row["domain"], parse_messages(row["messages"])) for row in read_rows(table, COLUMNS)]


def pack_samples(
    tokenizer: EncodesText, rows: Sequence[SftRow], *, sequence_length: int, overflow: Overflow, seed: int
) -> PackedSamples:
    """Encode, apply the overflow policy, and pack best-fit; `seed` decides which equal samples meet in a sequence.

    Raises ValueError naming the row whose mask cannot be built.
    """
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    encoded = [_encode(tokenizer, rows[index]) for index in order]
    fitted = fit_window(encoded, sequence_length, overflow)
    bins = pack_best_fit([len(sample.ids) for sample in fitted.samples], sequence_length)
    # position 0 of a sample is never a target, and is never supervised either: it is a turn marker
    supervised = [sum(sum(fitted.samples[index].mask[1:]) for index in row) for row in bins]
    kept = [rows[order[index]] for index in fitted.kept]
    ids, domains = [row.id for row in kept], [row.domain for row in kept]
    left_out = sorted({row.id for row in rows} - set(ids))
    return PackedSamples(fitted.samples, domains, bins, supervised, fitted.dropped, fitted.truncated, ids, left_out)


def domain_batches(packed: PackedSamples, *, sequence_length: int, micro_batch_size: int) -> dict[str, list[Batch]]:
    """Return the micro-batches of each domain alone, domains in name order; for losses per domain."""
    batches: dict[str, list[Batch]] = {}
    for domain in sorted(set(packed.domains)):
        members = [sample for sample, name in zip(packed.samples, packed.domains, strict=True) if name == domain]
        bins = pack_best_fit([len(sample.ids) for sample in members], sequence_length)
        batches[domain] = make_batches(
            members, bins, sequence_length=sequence_length, micro_batch_size=micro_batch_size
        )
    return batches


def _encode(tokenizer: EncodesText, row: SftRow) -> EncodedSample:
    try:
        return encode_sample(tokenizer, row.messages)
    except ValueError as error:
        raise ValueError(f"sample {row.id}: {error}") from error
