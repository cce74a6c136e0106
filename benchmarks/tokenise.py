"""Tokenising into Megatron's indexed dataset: this project against Hugging Face batches and megatron-core's builder.

    python benchmarks/tokenise.py TOKENIZER_DIR [--megabytes 20] [--runs 3] [--library-megabytes 4]

Text is the curated-corpus kind: program sources and documentation that are installed on this machine. Cold is a new
process from its imports to the finished files (compiled kernels are cached on disk from an earlier run); warm is fresh
text through an encoder that has seen other text. The peer gets a smaller share of the text and is always warm. Speeds
are megabytes of text per CPU-second of the process. Both write one part of the text, and the files are compared byte by
byte. Exit status 1 when a goal is missed or a file differs.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from dedup_corpus import real_documents
from tokenizers import Tokenizer

WARM_GOAL, COLD_GOAL = 50.0, 10.0


def size_of(texts: list[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def take(texts: Iterator[str], megabytes: float) -> list[str]:
    chosen: list[str] = []
    size = 0.0
    for text in texts:
        chosen.append(text)
        size += len(text.encode()) / 1e6
        if size >= megabytes:
            break
    return chosen


def peer(tokenizer: Tokenizer, texts: list[str], prefix: Path) -> float:
    """Return the MB/CPU-s of Hugging Face batch encoding and megatron-core's builder, document by document."""
    import torch
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.encode_special_tokens = True
    start = time.process_time()
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(tokenizer.get_vocab_size()))
    for at in range(0, len(texts), 1000):
        for encoding in tokenizer.encode_batch(texts[at : at + 1000], add_special_tokens=False):
            ids = [*encoding.ids, end]
            builder.add_document(torch.tensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")
    return size_of(texts) / (time.process_time() - start)


def ours(encoder, texts: list[str], prefix: Path) -> float:
    """Return the MB/CPU-s of the bulk encoder and the bulk writer."""
    from nanbeige_core.data.indexed_dataset import write_indexed_dataset

    start = time.process_time()
    found = encoder.encode(texts)
    write_indexed_dataset(prefix, [found.tokens], encoder.tokenizer.get_vocab_size(), lengths=found.lengths)
    return size_of(texts) / (time.process_time() - start)


def cold(folder: Path, text: Path) -> None:
    from nanbeige_core.data.encoding import BulkEncoder

    ours(
        BulkEncoder(Tokenizer.from_file(str(folder / "tokenizer.json"))),
        text.read_text().split("\0"),
        text.parent / "c",
    )


def main() -> None:
    """Measure both sides and compare their files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--library-megabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", type=Path, help="One cold run on a file of texts (internal).")
    options = parser.parse_args()
    if options.cold:
        cold(options.tokenizer, options.cold)
        return
    from nanbeige_core.data.encoding import BulkEncoder

    tokenizer = Tokenizer.from_file(str(options.tokenizer / "tokenizer.json"))
    pool = iter(real_documents(int(options.megabytes * (options.runs + 1) * 450) + 4000))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shared = take(pool, options.library_megabytes)
        first = take(pool, options.megabytes)
        (work / "first.txt").write_text("\0".join(first))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, __file__, str(options.tokenizer), "--cold", str(work / "first.txt")]
        subprocess.run(command, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cold_speed = size_of(first) / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        encoder = BulkEncoder(tokenizer)
        ours(encoder, first, work / "first")
        warm = [ours(encoder, take(pool, options.megabytes), work / f"warm{run}") for run in range(options.runs)]
        library = peer(tokenizer, shared, work / "peer")
        ours(encoder, shared, work / "same")
        equal = all(
            (work / f"same.{kind}").read_bytes() == (work / f"peer.{kind}").read_bytes() for kind in ("bin", "idx")
        )
        speed = statistics.median(warm)
        rows = [
            ("Hugging Face batches and megatron-core's builder", library),
            ("this project, cold", cold_speed),
            (f"this project, warm, fresh text, median of {len(warm)}", speed),
        ]
        for label, rate in rows:
            print(f"{label:50} {rate:8.2f} MB/CPU-s {rate / library:6.1f}x")
        print(f"files byte for byte equal: {equal}; documents that differed at the gate: {encoder.mismatches}")
    sys.exit(
        0 if equal and encoder.tables and speed >= WARM_GOAL * library and cold_speed >= COLD_GOAL * library else 1
    )


if __name__ == "__main__":
    main()
