"""The mixture: tokenised sets by tier and category, a held-out set, and the weights of the four phases.

Documents are brought into their seeded order by an external sort and encoded in chunks that are committed one by one,
so an interrupted run goes on where it stopped and no more than a chunk of text is held. The sidecar maps every indexed
sequence back to its document.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.cores import usable_cores
from nanbeige_core.data.allocation import return_free_memory, return_large_blocks
from nanbeige_core.data.dedup.shards import number_column
from nanbeige_core.data.encoding.chunks import EncodedChunks, encode_chunks, read_chunk, report_engines
from nanbeige_core.data.indexed_dataset import IndexedDatasetWriter
from nanbeige_core.data.phases import TokenSet, weigh_phases
from nanbeige_core.data.rendering import PROBLEM_COLUMNS, Rendered, choose_rendering, render_problem
from nanbeige_core.data.reordering import ranks_of, reorder
from nanbeige_core.data.tables import read_batches, read_rows, write_rows
from nanbeige_core.data.tokenizer import tokenizer_fingerprint
from nanbeige_core.recipe.configs.data import MixtureConfig

SIDECAR_SCHEMA = pa.schema(
    [("set", pa.string()), ("index", pa.int64()), ("document_id", pa.string()), ("tokens", pa.int64())]
)
TEXT_SCHEMA = pa.schema([("text", pa.string()), ("controls", pa.bool_())])
"""What is encoded; `controls` says that control-token names in the text are control tokens."""

DOCUMENTS_PER_CHUNK = 2000
CHUNKS_PER_WORKER = 4
"""Fewer chunks than this are encoded faster than another encoder builds its tables."""

VALIDATION = "validation"
VALIDATION_HQ = "validation-hq"
"""The held-out documents of the better half once more, by themselves: a phase that trains on that half alone must not
be judged by documents of both."""


@dataclass(frozen=True)
class Documents:
    """Every document in its seeded order: its id and its set (an index into `sets`), but not its text."""

    ids: pa.Array
    members_D: NDArray[np.int32]
    sets: tuple[str, ...]
    ranks_D: NDArray[np.int64]
    """Place in the order of each document as it is read."""
    better_D: NDArray[np.bool_]
    """Held-out documents of the better half."""


def run(job: Job) -> Outcome:
    """Write one indexed dataset per tier and category, the held-out one, the sidecar and `mixture.json`."""
    return_large_blocks()
    config: MixtureConfig = job.config
    documents = assign_held_out(order_documents(job, config), config)
    chunks = reorder(
        read_texts(job, config),
        documents.ranks_D,
        TEXT_SCHEMA,
        job.scratch / "ordered",
        rows_per_file=DOCUMENTS_PER_CHUNK,
    )
    return_free_memory()
    tokenizer_path = job.inputs["tokenizer"].path
    tokenizer = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json"))

    def progress(done: int) -> None:
        job.progress(0.95 * done / len(chunks), f"encoded {done:,} of {len(chunks):,} chunks")

    workers = max(1, min(usable_cores(), len(chunks) // CHUNKS_PER_WORKER))
    encoded = encode_chunks(tokenizer, chunks, job.scratch, progress, workers)
    return write_mixture(job, config, documents, encoded, tokenizer_path, tokenizer.get_vocab_size())


def order_documents(job: Job, config: MixtureConfig) -> Documents:
    """Return the curated documents and the rendered pretraining problems, in a seeded order."""
    ids: list[pa.Array] = []
    members: list[int] = []
    keys: list[bytes] = []
    numbers: dict[str, int] = {}
    for batch in itertools.chain(_corpus_sets(job), _problem_sets(job, config)):
        ids.append(batch.column("id"))
        keys.append(b"".join(_order(name, config.seed) for name in batch.column("id").to_pylist()))
        members += [numbers.setdefault(name, len(numbers)) for name in batch.column("set").to_pylist()]
    # the first half of a SHA-256 as two numbers sorts like the whole
    halves = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return Documents(
        pa.chunked_array(ids, pa.string()).combine_chunks().take(number_column(order)),
        np.array(members, np.int32)[order],
        tuple(numbers),
        ranks_of(order),
        np.zeros(len(order), np.bool_),
    )


def read_texts(job: Job, config: MixtureConfig) -> Iterator[pa.RecordBatch]:
    """Yield the texts of all documents, as they are read."""
    for batch in read_batches(job.inputs["corpus"].path / "documents", ("text",)):
        controls = pa.array([False] * batch.num_rows, pa.bool_())
        yield pa.record_batch([batch.column("text"), controls], TEXT_SCHEMA)
    for rows in _problem_batches(job):
        rendered = [_render(row, config) for row in rows]
        columns = [pa.array([item.text for item in rendered]), pa.array([item.controls for item in rendered])]
        yield pa.record_batch(columns, TEXT_SCHEMA)


def assign_held_out(documents: Documents, config: MixtureConfig) -> Documents:
    """Move the first `validation_share` of each set to validation; a set of one document keeps it for training."""
    validation = len(documents.sets)
    members_D, better_D = documents.members_D.copy(), documents.better_D.copy()
    for number, name in enumerate(documents.sets):
        places = np.flatnonzero(documents.members_D == number)
        held_out = min(len(places) - 1, int(np.ceil(len(places) * config.validation_share)))
        members_D[places[:held_out]] = validation
        better_D[places[:held_out]] = name.startswith("hq-")
    return Documents(documents.ids, members_D, (*documents.sets, VALIDATION), documents.ranks_D, better_D)


def write_mixture(
    job: Job,
    config: MixtureConfig,
    documents: Documents,
    encoded: EncodedChunks,
    tokenizer_path: Path,
    vocab_size: int,
) -> Outcome:
    """Write the sets, the sidecar and `mixture.json`, and report what they hold."""
    tokens, lengths_D = _write_sets(job.work, documents, encoded.paths, vocab_size)
    sizes = {name: int((documents.members_D == number).sum()) for number, name in enumerate(documents.sets)}
    sets = [
        _token_set(name, tokens[name], sizes[name]) for name in sorted(tokens) if name in sizes and name != VALIDATION
    ]
    phases = weigh_phases(
        sets,
        hq_token_share=config.hq_token_share,
        synthetic_share=config.synthetic_share,
        decay_factor=config.decay_factor,
        decay_categories=config.decay_categories,
    )
    write_rows(job.work / "sidecar.parquet", SIDECAR_SCHEMA, _sidecar_rows(documents, lengths_D))
    description = {
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer_path),
        "vocab_size": vocab_size,
        "sets": [
            {"name": s.name, "tier": s.tier, "category": s.category, "tokens": s.tokens, "documents": s.documents}
            for s in sets
        ],
        "phases": phases,
        "validation": {"name": VALIDATION, "tokens": tokens.get(VALIDATION, 0)},
        "validation_hq": {"name": VALIDATION_HQ, "tokens": tokens[VALIDATION_HQ]},
    }
    temporary = job.work / ".mixture.json.part"
    temporary.write_text(json.dumps(description, indent=1) + "\n")
    os.replace(temporary, job.work / "mixture.json")
    return _report(sets, phases, tokens.get(VALIDATION, 0), sizes[VALIDATION], report_engines(encoded))


def _write_sets(
    folder: Path, documents: Documents, encoded: list[Path], vocab_size: int
) -> tuple[dict[str, int], NDArray[np.int32]]:
    """Write all sets side by side, one chunk after the other; return the tokens of each and the length of each row."""
    present = np.unique(documents.members_D).tolist()
    writers = {number: IndexedDatasetWriter(folder / documents.sets[number], vocab_size) for number in present}
    again = IndexedDatasetWriter(folder / VALIDATION_HQ, vocab_size)
    lengths_D = np.empty(len(documents.members_D), np.int32)
    first = 0
    for path in encoded:
        tokens, lengths = read_chunk(path)
        members = documents.members_D[first : first + len(lengths)]
        for number in np.unique(members).tolist():
            mine = members == number
            writers[number].append(tokens[np.repeat(mine, lengths)], lengths[mine])
        better = documents.better_D[first : first + len(lengths)]
        again.append(tokens[np.repeat(better, lengths)], lengths[better])
        lengths_D[first : first + len(lengths)] = lengths
        first += len(lengths)
    written = {documents.sets[number]: writer.close() for number, writer in writers.items()}
    return written | {VALIDATION_HQ: again.close()}, lengths_D


def _sidecar_rows(documents: Documents, lengths_D: NDArray[np.int32]) -> Iterator[dict[str, Any]]:
    for name, number in sorted((name, number) for number, name in enumerate(documents.sets)):
        places = np.flatnonzero(documents.members_D == number)
        for index, place in enumerate(places.tolist()):
            yield {
                "set": name,
                "index": index,
                "document_id": documents.ids[place].as_py(),
                "tokens": int(lengths_D[place]),
            }


def _corpus_sets(job: Job) -> Iterator[pa.RecordBatch]:
    for batch in read_batches(job.inputs["corpus"].path / "documents", ("id", "tier", "category")):
        columns = (batch.column(name).to_pylist() for name in ("tier", "category"))
        sets = [f"{tier}-{category}" for tier, category in zip(*columns, strict=True)]
        yield pa.record_batch([batch.column("id"), pa.array(sets)], ["id", "set"])


def _problem_sets(job: Job, config: MixtureConfig) -> Iterator[pa.RecordBatch]:
    for rows in _problem_batches(job):
        sets = [f"hq-{_render(row, config).category}" for row in rows]
        yield pa.record_batch([pa.array([row["id"] for row in rows]), pa.array(sets)], ["id", "set"])


def _problem_batches(job: Job) -> Iterator[list[dict[str, Any]]]:
    rows = read_rows(job.inputs["problems"].path / "prompts.parquet", PROBLEM_COLUMNS)
    chosen = (row for row in rows if row["split"] == "pretrain")
    while batch := list(itertools.islice(chosen, DOCUMENTS_PER_CHUNK)):
        yield batch


def _render(row: dict[str, Any], config: MixtureConfig) -> Rendered:
    rendering = choose_rendering(row["id"], config.long_cot_share, config.worked_share, config.seed)
    return render_problem(row, rendering)


def _token_set(name: str, tokens: int, documents: int) -> TokenSet:
    tier, _, category = name.partition("-")
    return TokenSet(tier, category, tokens, documents)


def _order(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()[:16]


def _report(
    sets: list[TokenSet],
    phases: dict[str, dict[str, float]],
    validation_tokens: int,
    validation_documents: int,
    engines: Section,
) -> Outcome:
    total = sum(item.tokens for item in sets)
    hq = sum(item.tokens for item in sets if item.tier == "hq")
    table: list[dict[str, Any]] = [
        {
            "set": item.name,
            "documents": item.documents,
            "tokens": item.tokens,
            **{phase: round(weights.get(item.name, 0.0), 4) for phase, weights in phases.items()},
        }
        for item in sets
    ]
    shown = [item.name for item in sets]
    return Outcome(
        summary=f"Tokenised {sum(item.documents for item in sets):,} documents into {total:,} tokens in {len(sets)} "
        f"sets, and held {validation_documents:,} documents ({validation_tokens:,} tokens) out.",
        counts={
            "documents": sum(item.documents for item in sets),
            "sets": len(sets),
            "validation_documents": validation_documents,
            "validation_tokens": validation_tokens,
        },
        metrics={"hq_token_share": hq / max(1, total)},
        tokens=total,
        sections=[
            Section(
                title="Sets and their weight in each phase",
                table=table,
                plot=Plot(
                    kind="bar",
                    x=list(shown),
                    series={phase: [w.get(name, 0.0) for name in shown] for phase, w in phases.items()},
                    x_label="set",
                    y_label="share of the phase's tokens",
                ),
            ),
            engines,
        ],
    )
