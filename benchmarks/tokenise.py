"""Tokenising into Megatron's indexed dataset: this project against Hugging Face batches and megatron-core's builder.

    python benchmarks/tokenise.py [TOKENIZER_DIR ...] [--megabytes 20] [--runs 3] [--library-megabytes 4]

Text is the curated-corpus kind: program sources and documentation that are installed on this machine. Without a
directory one tokenizer of each kind is trained on a part of it that takes no further part. Cold is a new process from
its imports to the finished files (compiled kernels are cached on disk from an earlier run); warm is fresh text through
an encoder that has seen other text. The peer uses the same tokenizer and gets a smaller share of the text; it is
always warm. Speeds are megabytes of text per CPU-second of the process. Both write one part of the text, and the files
are compared byte by byte. The goals are those of byte-level tokenizers. Exit status 1 when one is missed, when the
engine's ids differ from the library's anywhere at its gate, or when a file differs.
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
from typing import NamedTuple, get_args

from tokenizers import Tokenizer

WARM_GOAL, COLD_GOAL = 50.0, 10.0
VOCABULARY = 16384
LEARNED_MEGABYTES = 6.0


class Found(NamedTuple):
    """MB/CPU-s of each side, and whether what they wrote is the same."""

    library: float
    cold: float
    warm: float
    engine: str
    mismatches: int
    equal: bool

    @property
    def reached(self) -> bool:
        fast = self.warm >= WARM_GOAL * self.library and self.cold >= COLD_GOAL * self.library
        return fast and self.equal and not self.mismatches


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
    taken = time.process_time() - start
    return size_of(texts) / taken


def ours(encoder, texts: list[str], prefix: Path) -> float:
    """Return the MB/CPU-s of the bulk encoder and the bulk writer."""
    from nanbeige_core.data.indexed_dataset import write_indexed_dataset

    start = time.process_time()
    found = encoder.encode(texts)
    write_indexed_dataset(prefix, [found.tokens], encoder.tokenizer.get_vocab_size(), lengths=found.lengths)
    taken = time.process_time() - start
    return size_of(texts) / taken


def cold(folder: Path, text: Path) -> None:
    from nanbeige_core.data.encoding.bulk import BulkEncoder

    encoder = BulkEncoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    # bytes: reading as text would turn line ends into others, which takes a quarter of the whole time
    ours(encoder, text.read_bytes().decode().split("\0"), text.parent / "cold")


def cold_seconds(folder: Path, text: Path) -> float:
    """Return the CPU-seconds of a new process that encodes and writes a file of texts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, __file__, str(folder), "--cold", str(text)], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, parts: list[list[str]], shared: list[str], work: Path) -> Found:
    """Measure one tokenizer: the first part cold, the others warm, `shared` by both sides."""
    from nanbeige_core.data.encoding.bulk import BulkEncoder

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    first, *fresh = parts
    text = work / "first.txt"
    text.write_bytes("\0".join(first).encode())
    cold_seconds(folder, text)  # writes the caches on disk that later processes find
    cold = size_of(first) / statistics.median(cold_seconds(folder, text) for _ in fresh)
    encoder = BulkEncoder(tokenizer)
    engine = encoder.engine_name
    ours(encoder, first, work / "first")
    # a name of its own for each: to replace a file is to free what it holds, which no first writing pays for
    warm = statistics.median(ours(encoder, part, work / f"warm-{number}") for number, part in enumerate(fresh))
    library = peer(tokenizer, shared, work / "peer")
    ours(encoder, shared, work / "same")
    equal = all((work / f"same.{end}").read_bytes() == (work / f"peer.{end}").read_bytes() for end in ("bin", "idx"))
    return Found(library, cold, warm, engine, encoder.mismatches, equal)


def train_each_kind(texts: list[str], work: Path) -> list[Path]:
    """Train a tokenizer of each kind and return their folders."""
    from nanbeige_core.data.tokenizer import Kind, save_tokenizer, train_tokenizer

    folders = [work / kind for kind in get_args(Kind)]
    for kind, folder in zip(get_args(Kind), folders, strict=True):
        save_tokenizer(train_tokenizer(texts, VOCABULARY, kind=kind), folder)
    return folders


def main() -> None:
    """Measure both sides and compare their files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tokenizers", type=Path, nargs="*")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--library-megabytes", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--cold", type=Path, help="One cold run on a file of texts (internal).")
    options = parser.parse_args()
    if options.cold:
        cold(options.tokenizers[0], options.cold)
        return
    from dedup_corpus import real_documents  # compiled kernels, which a cold run is not to pay for

    pool = iter(real_documents(int(options.megabytes * (options.runs + 1) * 450) + 9000))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        learned = take(pool, LEARNED_MEGABYTES)
        shared = take(pool, options.library_megabytes)
        parts = [take(pool, options.megabytes) for _ in range(options.runs + 1)]
        folders = options.tokenizers or train_each_kind(learned, work)
        found = {folder.name: measure(folder, parts, shared, work) for folder in folders}
    print(f"{'tokenizer':16} {'encoded by':18} {'library':>8} {'cold':>7} {'warm':>7}   cold x  warm x  files equal")
    for label, speeds in found.items():
        print(
            f"{label:16} {speeds.engine:18} {speeds.library:8.2f} {speeds.cold:7.1f} {speeds.warm:7.1f} "
            f"{speeds.cold / speeds.library:8.1f} {speeds.warm / speeds.library:7.1f}  {speeds.equal}"
        )
    sys.exit(0 if all(speeds.reached for speeds in found.values() if speeds.engine == "gigatoken") else 1)


if __name__ == "__main__":
    main()
