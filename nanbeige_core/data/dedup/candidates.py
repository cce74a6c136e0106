"""Between the passes: documents that share a key become buckets, buckets that share a document become components.

What is held in memory are keys of one partition and the numbers of documents that have a candidate, never text.
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

    Raises DuplicateIdError when an id occurs twice anywhere in the corpus.
    """
    refuse_duplicate_ids(task)
    loaded = [load_bucket_file(task.folder, number) for number in range(task.partitions)]
    members = np.concatenate([documents for _, documents in loaded])
    lengths = np.concatenate([lengths for lengths, _ in loaded])
    documents, compact = np.unique(members, return_inverse=True)
    count, labels = label_components(compact, lengths, len(documents))
    sizes = np.bincount(labels, minlength=count)
    part = np.empty(count, np.int32)
    # large components first, one to each verifier in turn
    part[np.argsort(-sizes, kind="stable")] = np.arange(count) % task.parts
    result = np.empty(len(documents), CANDIDATE)
    result["document"], result["component"], result["part"] = documents, labels, part[labels]
    write_array(task.folder / "candidates.npy", result)
    _write_buckets(task, members, lengths, result["part"][compact])
    return {"candidates": len(documents), "largest_component": int(sizes.max(initial=0))}


@njit(cache=True, nogil=True)
def label_components(
    members: NDArray[np.int64], lengths: NDArray[np.int64], documents: int
) -> tuple[int, NDArray[np.int32]]:
    """Return how many components the buckets (documents end to end) make, and the one of each document."""
    parent = np.arange(documents)
    start = 0
    for length in lengths:
        for at in range(start, start + length):
            first, second = members[start], members[at]
            while parent[first] != first:
                parent[first] = parent[parent[first]]
                first = parent[first]
            while parent[second] != second:
                parent[second] = parent[parent[second]]
                second = parent[second]
            parent[max(first, second)] = min(first, second)
        start += length
    labels = np.empty(documents, np.int32)
    count = 0
    for document in range(documents):
        # a parent has a smaller number, so it is labelled already
        if parent[document] == document:
            labels[document] = count
            count += 1
        else:
            labels[document] = labels[parent[document]]
    return count, labels


def refuse_duplicate_ids(task: ComponentTask) -> None:
    """Raise DuplicateIdError naming the two shards and rows of the first id that occurs twice."""
    hashes = np.concatenate([np.load(folder / "ids.npy") for folder in task.signatures])
    order = np.argsort(hashes, kind="stable")
    twice = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if len(twice):
        first, second = (_locate(int(number), task) for number in order[twice[0] : twice[0] + 2])
        raise DuplicateIdError(
            f"{first} and {second} have the same id ({len(twice)} ids occur twice). A removal names an id, so it would "
            "remove both. Give every document its own id: ingest does."
        )


def load_bucket_file(folder: Path, partition: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bucket sizes of one partition and their documents, end to end."""
    return np.load(folder / f"lengths-{partition:04d}.npy"), np.load(folder / f"documents-{partition:04d}.npy")


def shard_candidates(folder: Path, first: int, documents: int) -> NDArray[Any]:
    """Return the candidates among the `documents` documents from number `first` on, in order."""
    candidates = np.load(folder / "candidates.npy", mmap_mode="r")
    start, end = np.searchsorted(candidates["document"], [first, first + documents])
    return np.array(candidates[start:end])


def _write_buckets(
    task: ComponentTask, members: NDArray[np.int64], lengths: NDArray[np.int64], parts: NDArray[np.int32]
) -> None:
    """Write the buckets of each verifier apart, so that none reads those of the others."""
    starts = np.cumsum(lengths) - lengths
    # all documents of a bucket are of one component, and so of one verifier
    owners = parts[starts] if len(starts) else np.empty(0, np.int32)
    for part in range(task.parts):
        write_array(task.folder / f"part-lengths-{part:04d}.npy", lengths[owners == part])
        write_array(task.folder / f"part-documents-{part:04d}.npy", members[parts == part])


def load_part_buckets(folder: Path, part: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the bucket sizes of one verifier and their documents, end to end."""
    return np.load(folder / f"part-lengths-{part:04d}.npy"), np.load(folder / f"part-documents-{part:04d}.npy")


def _locate(document: int, task: ComponentTask) -> str:
    shard = int(np.searchsorted(task.firsts, document, "right")) - 1
    return f"{task.shards[shard]}: row {document - task.firsts[shard]}"
