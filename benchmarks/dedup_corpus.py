"""A corpus of real documents with planted near-duplicates, and the exact pairs in it by another algorithm.

Documents are program sources, headers and documentation that are installed on this machine, cut at blank lines; a
sixth of them get a damaged copy. The pairs come from a prefix-filter join over exact shingle counts in NumPy, which is
itself checked against plain set intersection on a sample; it shares no code with the duplicate finder but the hash
of a word.
"""

import hashlib
import random
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from nanbeige_core.data.hashing import shingle_hashes, unit_hashes

SUFFIXES = {".py", ".h", ".hpp", ".c", ".md", ".rst", ".txt", ".html", ".pyi", ".js", ".json", ".xml", ".pl", ".pm", ""}
THRESHOLD = 0.8


def roots() -> list[Path]:
    """Return the folders that documents come from."""
    names = [sysconfig.get_path("purelib"), sysconfig.get_path("stdlib"), "/usr/share/doc", "/usr/include", "/usr/lib"]
    return [Path(name) for name in names if Path(name).exists()]


def cut(text: str, limit: int) -> Iterator[str]:
    """Cut a text at blank lines into documents of roughly `limit` characters."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece += paragraph[: 4 * limit] + "\n\n"
        if len(piece) >= limit:
            yield piece
            piece = ""
    if len(piece) > 300:
        yield piece


def real_documents(count: int) -> list[str]:
    """Return real documents in an order that depends on their path alone."""
    files = {
        path
        for root in roots()
        for path in root.rglob("*")
        if path.suffix in SUFFIXES and path.is_file() and not path.is_symlink() and path.stat().st_size > 600
    }
    documents: list[str] = []
    for path in sorted(files, key=lambda item: hashlib.sha256(str(item).encode()).digest()):
        raw = path.read_bytes()[:400_000]
        if b"\x00" in raw:
            continue
        text = raw.decode("utf-8", errors="ignore")
        limit = 700 + int.from_bytes(hashlib.sha256(str(path).encode()).digest()[:2], "big") % 2600
        if sum(character > "\u2e80" for character in text[:2000]) > 20:
            continue
        documents += cut(text, limit)
        if len(documents) >= count:
            return documents[:count]
    raise SystemExit(f"only {len(documents)} real documents on this machine, {count} asked: lower --documents.")


def edit_words(share: float) -> Callable[[str, random.Random], str]:
    """Return a mutation that replaces a share of words."""

    def mutate(text: str, rng: random.Random) -> str:
        words = text.split(" ")
        return " ".join(f"w{rng.randrange(10**6)}" if rng.random() < share else word for word in words)

    return mutate


def add_frame(text: str, rng: random.Random) -> str:
    frame = " ".join(f"frame{rng.randrange(10**4)}" for _ in range(max(4, len(text) // 120)))
    return f"{frame}\n{text}"


def drop_paragraph(text: str, rng: random.Random) -> str:
    parts = text.split("\n")
    at = rng.randrange(len(parts))
    return "\n".join(parts[:at] + parts[at + max(1, len(parts) // 12) :])


MUTATIONS: dict[str, Callable[[str, random.Random], str]] = {
    "copy": lambda text, rng: text,
    "case": lambda text, rng: text.upper(),
    "space": lambda text, rng: text.replace("\n", " \n "),
    "punctuation": lambda text, rng: text.replace(",", " , ").replace(".", " ."),
    "words 0.5 %": edit_words(0.005),
    "words 1 %": edit_words(0.01),
    "words 2 %": edit_words(0.02),
    "words 4 %": edit_words(0.04),
    "frame": add_frame,
    "paragraph": drop_paragraph,
    "truncated": lambda text, rng: text[: int(0.9 * len(text))],
}


def build(folder: Path, documents: int, shards: int) -> None:
    """Write `documents` documents, a sixth of them planted, as shuffled Parquet shards with a seeded quality."""
    planted = documents // 6
    texts = real_documents(documents - planted)
    rng = random.Random(7)
    names = list(MUTATIONS)
    for number, parent in enumerate(rng.sample(range(len(texts)), planted)):
        texts.append(MUTATIONS[names[number % len(names)]](texts[parent], rng))
    order = list(range(len(texts)))
    rng.shuffle(order)
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        mine = order[shard::shards]
        table = pa.table(
            {
                "id": [f"doc-{number:07d}" for number in mine],
                "text": pa.array([texts[number] for number in mine], pa.large_string()),
                "quality": [float(number % 10) for number in mine],
            }
        )
        pq.write_table(table, folder / f"{shard:03d}.parquet", compression="zstd")


def exact_pairs(texts: list[str], size: int = 5) -> tuple[NDArray[np.int64], list[NDArray[np.uint64]]]:
    """Return every pair [P, 2] whose shingle sets reach the threshold, and the sets."""
    sets = [np.unique(shingle_hashes(unit_hashes(text)[0], size)) for text in texts]
    lengths = np.array([len(item) for item in sets])
    flat = np.concatenate(sets)
    values, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    owner = np.repeat(np.arange(len(sets)), lengths)
    order = np.lexsort((inverse, counts[inverse], owner))
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    prefix = lengths - np.ceil(THRESHOLD * lengths - 1e-9).astype(int) + 1
    chosen = order[(place < np.repeat(prefix, lengths)) & (counts[inverse[order]] > 1)]
    matrix = sparse.csr_matrix(
        (np.ones(len(chosen), np.int32), (owner[chosen], inverse[chosen])), shape=(len(sets), len(values))
    )
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(sets), 2000):
        found = sparse.coo_matrix(matrix[start : start + 2000] @ matrix.T)
        first, second = found.row + start, found.col
        near = (first < second) & (
            np.minimum(lengths[first], lengths[second])
            >= THRESHOLD * np.maximum(lengths[first], lengths[second]) - 1e-9
        )
        for a, b in zip(first[near], second[near], strict=True):
            shared = len(np.intersect1d(sets[a], sets[b], assume_unique=True))
            if shared >= THRESHOLD * (lengths[a] + lengths[b] - shared) - 1e-9:
                pairs.append((int(a), int(b)))
    # documents shorter than a shingle are twins only when their words are the same
    short: dict[bytes, list[int]] = {}
    for number in np.flatnonzero(lengths == 0):
        short.setdefault(unit_hashes(texts[number])[0].tobytes() or texts[number].encode(), []).append(int(number))
    pairs += [(a, b) for group in short.values() for at, a in enumerate(group) for b in group[at + 1 :]]
    return np.array(pairs, np.int64).reshape(-1, 2), sets


def check_pairs(pairs: NDArray[np.int64], sets: list[NDArray[np.uint64]], sample: int = 8) -> None:
    """Compare a sample of documents with every other one by plain set membership; exit when a pair differs."""
    lengths = np.array([len(item) for item in sets])
    flat, owner = np.concatenate(sets), np.repeat(np.arange(len(sets)), lengths)
    for document in random.Random(3).sample(np.flatnonzero(lengths).tolist(), sample):
        shared = np.bincount(owner[np.isin(flat, sets[document])], minlength=len(sets))
        twins = set(np.flatnonzero(shared >= THRESHOLD * (lengths + lengths[document] - shared) - 1e-9)) - {document}
        joined = set(pairs[pairs[:, 0] == document, 1]) | set(pairs[pairs[:, 1] == document, 0])
        if twins != joined:
            raise SystemExit(f"document {document}: the exact join found {len(joined)} twins, plain sets {len(twins)}.")
