"""Between the passes: documents that share a key become buckets, buckets that share a document become components.

What is held in memory are keys of one partition and a few numbers of each document, never text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from nanbeige_core.data.dedup.signatures import KEYS, OWNERS, write_array
from nanbeige_core.data.executors import Result

CANDIDATE = np.dtype([("document", np.int64), ("part", np.int32), ("component", np.int32)])
"""A document with a candidate: its number in the corpus, who verifies it, and its component."""


class DuplicateIdError(ValueError):
    """Two documents have one id, so a removal would name both."""


@dataclass(frozen=True)
class LinkTask:
    """One range of the key space, over the signatures of every shard; `firsts` numbers each shard's first document."""

    signatures: tuple[Path, ...]
    firsts: tuple[int, ...]
    partition: int
    partitions: int
    folder: Path


@dataclass(frozen=True)
class ComponentTask:
    """All buckets of the corpus, whose components go to `parts` verifiers."""

    signatures: tuple[Path, ...]
    shards: tuple[Path, ...]
    firsts: tuple[int, ...]
    partitions: int
    parts: int
    folder: Path


def link_partition(task: LinkTask) -> Result:
    """Write the buckets (two documents or more with one key) of one range of keys."""
    low = task.partition * (1 << 64) // task.partitions
    high = (task.partition + 1) * (1 << 64) // task.partitions - 1
    keys: list[NDArray[np.uint64]] = []
    documents: list[NDArray[np.int64]] = []
    for folder, first in zip(task.signatures, task.firsts, strict=True):
        stored = np.load(folder / KEYS, mmap_mode="r")
        start = np.searchsorted(stored, np.uint64(low), "left")
        end = np.searchsorted(stored, np.uint64(high), "right")
        keys.append(stored[start:end])
        documents.append(np.load(folder / OWNERS, mmap_mode="r")[start:end].astype(np.int64) + first)
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    key, document = key[order], np.concatenate(documents)[order]
    new = np.ones(len(key) + 1, bool)
    new[1:-1] = key[1:] != key[:-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(starts)
    shared = np.repeat(lengths > 1, lengths)
    task.folder.mkdir(parents=True, exist_ok=True)
    write_array(task.folder / f"lengths-{task.partition:04d}.npy", lengths[lengths > 1])
    write_array(task.folder / f"documents-{task.partition:04d}.npy", document[shared])
    return {"buckets": int((lengths > 1).sum())}


def split_components(task: ComponentTask) -> Result:
    """Write the candidates with the component and verifier of each; return how many and how large the largest is.

    Buckets are read one range of keys at a time. Raises DuplicateIdError when an id occurs twice in the corpus.
    """
    documents_D = refuse_duplicate_ids(task)
    parents_D, candidate_D = np.arange(documents_D), np.zeros(documents_D, np.bool_)
    for number in range(task.partitions):
        lengths, members = load_bucket_file(task.folder, number)
        join_components(parents_D, members, lengths)
        candidate_D[members] = True
    documents = np.flatnonzero(candidate_D)
    count, labels = label_components(parents_D, documents)
    sizes = np.bincount(labels, minlength=count)
    part = np.empty(count, np.int32)
    # large components first, one to each verifier in turn
    part[np.argsort(-sizes, kind="stable")] = np.arange(count) % task.parts
    result = np.empty(len(documents), CANDIDATE)
    result["document"], result["component"], result["part"] = documents, labels, part[labels]
    write_array(task.folder / "candidates.npy", result)
    # from here on the array holds the verifier of each candidate instead
    parents_D[documents] = result["part"]
    _write_buckets(task, parents_D)
    return {"candidates": len(documents), "largest_component": int(sizes.max(initial=0))}


@njit(cache=True, nogil=True)
def join_components(parents_D: NDArray[np.int64], members: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
    """Join the documents of each bucket (documents end to end); a parent has a smaller number than its children."""
    start = 0
    for length in lengths:
        for at in range(start, start + length):
            first, second = members[start], members[at]
            while parents_D[first] != first:
                parents_D[first] = parents_D[parents_D[first]]
                first = parents_D[first]
            while parents_D[second] != second:
                parents_D[second] = parents_D[parents_D[second]]
                second = parents_D[second]
            parents_D[max(first, second)] = min(first, second)
        start += length


@njit(cache=True, nogil=True)
def label_components(parents_D: NDArray[np.int64], documents: NDArray[np.int64]) -> tuple[int, NDArray[np.int32]]:
    """Return how many components the joined `documents` (ascending) make, and the one of each; ruins the parents."""
    labels = np.empty(len(documents), np.int32)
    count = 0
    for place in range(len(documents)):
        document = documents[place]
        # a parent has a smaller number, so it is labelled already, and holds its label below zero
        if parents_D[document] == document:
            labels[place] = count
            count += 1
        else:
            labels[place] = -1 - parents_D[parents_D[document]]
        parents_D[document] = -1 - labels[place]
    return count, labels


def refuse_duplicate_ids(task: ComponentTask) -> int:
    """Return the number of documents; raise DuplicateIdError naming the shards and rows of an id that occurs twice."""
    hashes = np.concatenate([np.load(folder / "ids.npy") for folder in task.signatures])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        first, second = (_locate(int(number), task) for number in order[twice[0] : twice[0] + 2])
        raise DuplicateIdError(
            f"{first} and {second} have the same id ({len(twice)} ids occur twice). A removal names an id, so it would "
            "remove both. Give every document its own id: ingest does."
        )
    return len(hashes)


def load_bucket_file(folder: Path, partition: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bucket sizes of one partition and their documents, end to end."""
    return np.load(folder / f"lengths-{partition:04d}.npy"), np.load(folder / f"documents-{partition:04d}.npy")


def shard_candidates(folder: Path, first: int, documents: int) -> NDArray[Any]:
    """Return the candidates among the `documents` documents from number `first` on, in order."""
    candidates = np.load(folder / "candidates.npy", mmap_mode="r")
    start, end = np.searchsorted(candidates["document"], [first, first + documents])
    return np.array(candidates[start:end])


def _write_buckets(task: ComponentTask, verifier_D: NDArray[np.int64]) -> None:
    """Write the buckets of each verifier apart, so that none reads those of the others; range after range of keys."""
    for path in task.folder.glob("part-*.bin"):
        path.unlink()
    for number in range(task.partitions):
        lengths, members = load_bucket_file(task.folder, number)
        # all documents of a bucket are of one component, and so of one verifier
        owners_M = verifier_D[members]
        owners = owners_M[np.cumsum(lengths) - lengths]
        for part in np.unique(owners).tolist():
            for name, values in (("lengths", lengths[owners == part]), ("documents", members[owners_M == part])):
                with _part_file(task.folder, name, part).open("ab") as stream:
                    values.tofile(stream)


def load_part_buckets(folder: Path, part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bucket sizes of one verifier and their documents, end to end."""
    paths = [_part_file(folder, name, part) for name in ("lengths", "documents")]
    lengths, documents = (np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64) for path in paths)
    return lengths, documents


def _part_file(folder: Path, name: str, part: int) -> Path:
    return folder / f"part-{name}-{part:04d}.bin"


def _locate(document: int, task: ComponentTask) -> str:
    shard = int(np.searchsorted(task.firsts, document, "right")) - 1
    return f"{task.shards[shard]}: row {document - task.firsts[shard]}"
