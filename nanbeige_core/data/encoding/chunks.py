"""Encode chunks of documents, each committed by itself, so that an interrupted run goes on where it stopped."""

import itertools
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from nanbeige_core.contract import Section
from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.encoding.bulk import BulkEncoder
from nanbeige_core.data.encoding.engine import Encoded
from nanbeige_core.data.tables import read_rows


class EncodedChunks(NamedTuple):
    """Files of token ids and lengths, one a chunk, and whether the engine's ids differed from the library's."""

    paths: list[Path]
    differed: bool


def encode_chunks(
    tokenizer: Tokenizer, chunks: Sequence[Path], folder: Path, progress: Callable[[int], None], workers: int = 1
) -> EncodedChunks:
    """Encode each file of texts into one of token ids and lengths; finished ones are not redone.

    Every document ends with the end-of-text token. Where the engine's ids differ from the library's, what it wrote
    before is not trusted either: the library encodes all chunks again. Each of the `workers` threads has an encoder of
    its own; neither the ids nor which documents are compared depend on how many there are.
    """
    paths = [folder / f"encoded-{number:05d}.npz" for number in range(len(chunks))]
    differed = _encode_missing(tokenizer, chunks, paths, progress, workers, fast=True)
    if differed:
        for path in paths:
            path.unlink(missing_ok=True)
        _encode_missing(tokenizer, chunks, paths, progress, workers, fast=False)
    return EncodedChunks(paths, differed)


def read_chunk(path: Path) -> Encoded:
    """Return the token ids and lengths of a chunk."""
    with np.load(path) as stored:
        return Encoded(stored["tokens"], stored["lengths"])


def report_engines(encoded: EncodedChunks) -> Section:
    """Tell what encoded how many documents, and how many of them the library encoded as well."""
    documents: Counter[str] = Counter()
    checked: Counter[str] = Counter()
    for path in encoded.paths:
        with np.load(path) as stored:
            engine = str(stored["engine"])
            documents[engine] += len(stored["lengths"])
            checked[engine] += int(stored["checked"])
    verdict = "An engine's ids differed: the library encoded everything again." if encoded.differed else "All agree."
    return Section(
        title="Encoding",
        text=f"Some documents are encoded by the library as well, to compare. {verdict}",
        table=[
            {"engine": engine, "documents": documents[engine], "compared": checked[engine]}
            for engine in sorted(documents)
        ],
    )


def _encode_missing(
    tokenizer: Tokenizer,
    chunks: Sequence[Path],
    paths: Sequence[Path],
    progress: Callable[[int], None],
    workers: int,
    *,
    fast: bool,
) -> bool:
    """Encode until an engine differs from the library, and tell whether one did."""
    description = tokenizer.to_str()
    local = threading.local()
    sizes = [pq.ParquetFile(chunk).metadata.num_rows for chunk in chunks]

    def encode(task: tuple[Path, Path, int]) -> bool:
        chunk, path, first = task
        if path.exists():
            return False
        if not hasattr(local, "encoder"):
            # a tokenizer has a state: whether names of control tokens are text
            local.encoder = BulkEncoder(Tokenizer.from_str(description), fast=fast)
        local.encoder.documents = first
        _encode_chunk(local.encoder, list(read_rows(chunk)), path)
        return local.encoder.mismatches > 0

    tasks = zip(chunks, paths, itertools.accumulate(sizes, initial=0), strict=False)
    for number, differed in enumerate(map_in_order(encode, tasks, workers), 1):
        if differed:
            return True
        progress(number)
    return False


def _encode_chunk(encoder: BulkEncoder, chunk: list[dict[str, Any]], path: Path) -> None:
    controls = np.array([document["controls"] for document in chunk], np.bool_)
    checked = encoder.checked
    parts = [
        encoder.encode([document["text"] for document in chunk if document["controls"] == value], controls=value)
        for value in (False, True)
    ]
    lengths = np.empty(len(chunk), np.int64)
    lengths[~controls], lengths[controls] = parts[0].lengths, parts[1].lengths
    tokens = np.empty(int(lengths.sum()), encoder.dtype)
    place = np.repeat(controls, lengths)
    tokens[~place], tokens[place] = parts[0].tokens, parts[1].tokens
    temporary = path.with_name(f".{path.name}.part.npz")
    engine = np.array(encoder.engine_name)
    np.savez(temporary, tokens=tokens, lengths=lengths, engine=engine, checked=encoder.checked - checked)
    os.replace(temporary, path)
