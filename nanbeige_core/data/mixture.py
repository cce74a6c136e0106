"""The mixture: tokenised sets by tier and category, a held-out set, and the weights of the four phases.

Documents are encoded in chunks that are committed one by one, so an interrupted run goes on where it stopped. The
sidecar maps every indexed sequence back to its document.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer

from nanbeige_core.contract import Job, Outcome, Plot, Section
from nanbeige_core.data.encoding import BulkEncoder
from nanbeige_core.data.indexed_dataset import write_indexed_dataset
from nanbeige_core.data.phases import TokenSet, weigh_phases
from nanbeige_core.data.rendering import PROBLEM_COLUMNS, choose_rendering, render_problem
from nanbeige_core.data.tables import read_rows, write_rows
from nanbeige_core.data.tokenizer import tokenizer_fingerprint
from nanbeige_core.recipe.configs.data import MixtureConfig

SIDECAR_SCHEMA = pa.schema(
    [("set", pa.string()), ("index", pa.int64()), ("document_id", pa.string()), ("tokens", pa.int64())]
)
DOCUMENTS_PER_CHUNK = 2000
VALIDATION = "validation"


class Document(NamedTuple):
    """One document on its way into a set; `controls` says that control-token names in it are control tokens."""

    id: str
    set: str
    text: str
    controls: bool


def run(job: Job) -> Outcome:
    """Write one indexed dataset per tier and category, the held-out one, the sidecar and `mixture.json`."""
    config: MixtureConfig = job.config
    documents = assign_held_out(collect_documents(job, config), config)
    tokenizer_path = job.inputs["tokenizer"].path
    tokenizer = Tokenizer.from_file(str(tokenizer_path / "tokenizer.json"))
    encoded = encode_in_chunks(job, tokenizer, documents)
    return write_mixture(job, config, documents, encoded, tokenizer_path, tokenizer.get_vocab_size())


def collect_documents(job: Job, config: MixtureConfig) -> list[Document]:
    """Return the curated documents and the rendered pretraining problems, in a seeded order."""
    columns = ("id", "text", "category", "tier")
    documents = [
        Document(row["id"], f"{row['tier']}-{row['category']}", row["text"], controls=False)
        for row in read_rows(job.inputs["corpus"].path / "documents", columns)
    ]
    for row in read_rows(job.inputs["problems"].path / "prompts.parquet", PROBLEM_COLUMNS):
        if row["split"] == "pretrain":
            rendering = choose_rendering(row["id"], config.long_cot_share, config.worked_share, config.seed)
            text, category, controls = render_problem(row, rendering)
            documents.append(Document(row["id"], f"hq-{category}", text, controls))
    return sorted(documents, key=lambda document: _order(document.id, config.seed))


def assign_held_out(documents: list[Document], config: MixtureConfig) -> list[Document]:
    """Move the first `validation_share` of each set to validation; a set of one document keeps it for training."""
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.set] = sizes.get(document.set, 0) + 1
    left = {name: min(size - 1, int(np.ceil(size * config.validation_share))) for name, size in sizes.items()}
    result: list[Document] = []
    for document in documents:
        if left[document.set] > 0:
            left[document.set] -= 1
            document = document._replace(set=VALIDATION)
        result.append(document)
    return result


def encode_in_chunks(job: Job, tokenizer: Tokenizer, documents: list[Document]) -> list[NDArray[np.integer]]:
    """Return the ids of each document, each ending with the end-of-text token; finished chunks are not redone."""
    encoder = BulkEncoder(tokenizer)
    encoded: list[NDArray[np.integer]] = []
    for number, chunk in enumerate(batched_documents(documents)):
        path = job.scratch / f"chunk-{number:05d}.npz"
        if not path.exists():
            _encode_chunk(encoder, chunk, path)
        with np.load(path) as stored:
            encoded += np.split(stored["tokens"], np.cumsum(stored["lengths"])[:-1])
        job.progress(min(0.95, len(encoded) / len(documents)), f"encoded {len(encoded):,} documents")
    return encoded


def batched_documents(documents: list[Document]) -> Iterator[list[Document]]:
    """Yield the documents in commit-sized chunks."""
    for start in range(0, len(documents), DOCUMENTS_PER_CHUNK):
        yield documents[start : start + DOCUMENTS_PER_CHUNK]


def write_mixture(
    job: Job,
    config: MixtureConfig,
    documents: list[Document],
    encoded: list[NDArray[np.integer]],
    tokenizer_path: Path,
    vocab_size: int,
) -> Outcome:
    """Write the sets, the sidecar and `mixture.json`, and report what they hold."""
    members: dict[str, list[int]] = {}
    for position, document in enumerate(documents):
        members.setdefault(document.set, []).append(position)
    tokens = {
        name: write_indexed_dataset(job.work / name, [encoded[p] for p in positions], vocab_size)
        for name, positions in sorted(members.items())
    }
    sets = [_token_set(name, tokens[name], len(members[name])) for name in sorted(members) if name != VALIDATION]
    phases = weigh_phases(
        sets,
        hq_token_share=config.hq_token_share,
        synthetic_share=config.synthetic_share,
        decay_factor=config.decay_factor,
        decay_categories=config.decay_categories,
    )
    sidecar = (
        {"set": name, "index": index, "document_id": documents[p].id, "tokens": len(encoded[p])}
        for name, positions in sorted(members.items())
        for index, p in enumerate(positions)
    )
    write_rows(job.work / "sidecar.parquet", SIDECAR_SCHEMA, sidecar)
    description = {
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer_path),
        "vocab_size": vocab_size,
        "sets": [
            {"name": s.name, "tier": s.tier, "category": s.category, "tokens": s.tokens, "documents": s.documents}
            for s in sets
        ],
        "phases": phases,
        "validation": {"name": VALIDATION, "tokens": tokens.get(VALIDATION, 0)},
    }
    temporary = job.work / ".mixture.json.part"
    temporary.write_text(json.dumps(description, indent=1) + "\n")
    os.replace(temporary, job.work / "mixture.json")
    return _report(sets, phases, tokens.get(VALIDATION, 0), len(members.get(VALIDATION, [])))


def _token_set(name: str, tokens: int, documents: int) -> TokenSet:
    tier, _, category = name.partition("-")
    return TokenSet(tier, category, tokens, documents)


def _encode_chunk(encoder: BulkEncoder, chunk: list[Document], path: Path) -> None:
    rows: list[NDArray[np.integer]] = [np.empty(0, encoder.dtype)] * len(chunk)
    for controls in (False, True):
        chosen = [index for index, document in enumerate(chunk) if document.controls == controls]
        found = encoder.encode([chunk[index].text for index in chosen], controls=controls)
        for index, row in zip(chosen, np.split(found.tokens, np.cumsum(found.lengths)[:-1]), strict=False):
            rows[index] = row
    temporary = path.with_name(f".{path.name}.part.npz")
    np.savez(temporary, tokens=np.concatenate(rows), lengths=np.array([len(row) for row in rows]))
    os.replace(temporary, path)


def _order(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _report(
    sets: list[TokenSet], phases: dict[str, dict[str, float]], validation_tokens: int, validation_documents: int
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
            )
        ],
    )
