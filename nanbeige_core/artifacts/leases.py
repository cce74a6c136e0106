"""Leases: a run names the artifacts it counts on, so that none is collected under it.

A lease is a list of addresses whose lock file is held as long as the run lives; the kernel frees it when the run dies,
however it dies. A collection and the taking of a lease exclude one another. Leases bind the processes of one machine
(or of a shared file system with working flock), like the store's single-flight locks.
"""

import json
import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nanbeige_core.artifacts.store import Store

COLLECTION_LOCK = "collection.lock"
_SUFFIX = ".lease"


@contextmanager
def hold_lease(store: Store, addresses: Iterable[str]) -> Generator[None]:
    """Keep `addresses` (and their ancestors) from being collected while the context lives."""
    folder = store.lock_directory
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}"
    lock = FileLock(_lock_of(path))
    with FileLock(folder / COLLECTION_LOCK):
        lock.acquire()
        path.write_text(json.dumps(sorted(set(addresses))), encoding="utf-8")
    try:
        yield
    finally:
        _drop(path)
        lock.release()


def leased_addresses(store: Store) -> set[str]:
    """Return every address a living run counts on; leases of dead runs are removed on the way.

    Call it under the collection lock, else a lease may be in the making.
    """
    found: set[str] = set()
    for path in store.lock_directory.glob(f"*{_SUFFIX}"):
        lock = FileLock(_lock_of(path))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            found |= set(json.loads(path.read_text(encoding="utf-8")))
            continue
        _drop(path)
        lock.release()
    return found


def _lock_of(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)
    _lock_of(path).unlink(missing_ok=True)
