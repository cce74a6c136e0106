"""Mark and sweep: which artifacts, half-done work and leftovers of a store nobody needs any more.

Mark: from the roots (pins, aliases, what a recipe plans, what a run or a half-done stage reads, the newest of each
stage) down to every ancestor. Sweep: what is not marked and older than an age, never what a running stage holds. A
survey changes nothing; `collect` deletes, manifest first, so that a collection cut short leaves no half artifact.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout, lock_descriptor

from nanbeige_core.artifacts.leases import COLLECTION_LOCK, leased_addresses
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest
from nanbeige_core.artifacts.pins import list_aliases, list_pins
from nanbeige_core.artifacts.store import CONTROL, LATEST, RUNS, Store
from nanbeige_core.errors import ArtifactError

What = Literal["artifact", "unsealed", "work", "replaced", "download", "record", "page", "lock"]
_LOCKED = ("artifact", "unsealed", "work", "lock")
_KEY = re.compile(r"[0-9a-f]{16}")
_DELETED = ".deleted-"
_REPLACED = ".replaced-"
PAGES = 20
"""Pages of runs that stay, unless another number is given."""


@dataclass(frozen=True)
class Garbage:
    """One thing that may go: a path (in the store's file system when `remote`, else local), its size, and why."""

    what: What
    key: str
    path: str
    bytes: int
    why: str
    remote: bool = False


@dataclass(frozen=True)
class Survey:
    """What a collection would do: kept artifacts (address -> first reason found), garbage, and what is too young."""

    kept: dict[str, str]
    garbage: tuple[Garbage, ...]
    spared: dict[str, str]

    @property
    def bytes(self) -> int:
        """Return what a collection would free, in bytes."""
        return sum(item.bytes for item in self.garbage)


@contextmanager
def collecting(store: Store) -> Generator[None]:
    """Exclude other collections and the start of runs while surveying and deleting."""
    store.lock_directory.mkdir(parents=True, exist_ok=True)
    with FileLock(store.lock_directory / COLLECTION_LOCK):
        yield


def survey(store: Store, planned: Mapping[str, str], *, newest: int, age_seconds: float, pages: int = PAGES) -> Survey:
    """Return what may go and what stays, and why; changes nothing but dead runs' leases.

    `planned` maps addresses to the reason they are wanted; their half-done work is kept too. `newest` artifacts of each
    stage and `pages` pages of runs stay; nothing younger than `age_seconds` goes. Call it inside `collecting`. Raises
    ArtifactError for a pin that cannot be read.
    """
    manifests = {manifest.address: manifest for manifest in store.manifests()}
    work = list(_work_directories(store))
    roots = _roots(store, planned, manifests, work, newest)
    kept = _with_ancestors(roots, manifests)
    oldest = time.time() - age_seconds
    found = [
        *_artifacts(store, manifests, kept),
        *_unsealed(store, manifests),
        *(_work_item(path, key) for path, key in work if key not in planned),
        *_leftovers(store),
        *_downloads(store, kept),
        *_records(store, manifests, kept),
        *_pages(store, pages),
        *_locks(store),
    ]
    spared: dict[str, str] = {}
    garbage: list[Garbage] = []
    for item in found:
        made = _made(store, item, manifests)
        if made > oldest:
            spared[item.path] = "younger than the age given"
        elif item.what in _LOCKED and is_held(store, item):
            spared[item.path] = "a running stage holds it"
        else:
            garbage.append(item)
    return Survey(kept, tuple(garbage), spared)


def collect(store: Store, item: Garbage) -> str:
    """Delete one thing and return an empty text, or why it was left: a stage has taken it, or it cannot be deleted."""
    with ExitStack() as stack:
        for path in _lock_files(store, item):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return "a running stage holds it"
            stack.callback(lock.release)
        try:
            with store.reaching(f"deleting {item.key}"):
                _delete(store, item)
        except (OSError, ArtifactError) as error:
            return f"{type(error).__name__}: {error}"
    return ""


def is_held(store: Store, item: Garbage) -> bool:
    """Tell whether a living process holds the single-flight lock of a thing."""
    for path in _lock_files(store, item):
        try:
            descriptor = os.open(path, os.O_RDWR)  # a FileLock costs more than all else that a survey does
        except FileNotFoundError:
            continue
        try:
            if not lock_descriptor(descriptor, blocking=False):
                return True
        finally:
            os.close(descriptor)
    return False


# ---- mark


def _roots(
    store: Store, planned: Mapping[str, str], manifests: dict[str, Manifest], work: list[tuple[Path, str]], newest: int
) -> dict[str, str]:
    roots = {entry.address: f"pinned{f': {entry.note}' if entry.note else ''}" for entry in list_pins(store)}
    roots = {entry.address: f"alias @{entry.name}" for entry in list_aliases(store)} | roots
    for address in leased_addresses(store):
        roots.setdefault(address, "a running flow counts on it")
    for path, key in work:
        for address in _inputs_of(path):
            roots.setdefault(address, f"half-done {key} reads it")
    for address, why in planned.items():
        roots.setdefault(address, why)
    of_stage: dict[str, int] = {}
    for address, manifest in manifests.items():  # newest first
        of_stage[manifest.stage] = of_stage.get(manifest.stage, 0) + 1
        if of_stage[manifest.stage] <= newest:
            roots.setdefault(address, f"among the newest {newest} of its stage")
    return {address: why for address, why in roots.items() if address in manifests}


def _with_ancestors(roots: dict[str, str], manifests: dict[str, Manifest]) -> dict[str, str]:
    kept = dict(roots)
    pending = list(roots)
    while pending:
        current = pending.pop()
        for reference in manifests[current].inputs.values():
            if reference.address in manifests and reference.address not in kept:
                kept[reference.address] = f"{current} was made from it"
                pending.append(reference.address)
    return kept


def _inputs_of(work: Path) -> list[str]:
    """Return the addresses a half-done stage reads, from the job file its launcher left."""
    try:
        inputs = json.loads((work / CONTROL / "job.json").read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        return []
    return [f"{Path(item['path']).parent.name}/{item['fingerprint'][:16]}" for item in inputs.values()]


# ---- sweep


def _artifacts(store: Store, manifests: dict[str, Manifest], kept: dict[str, str]) -> Iterator[Garbage]:
    for address, manifest in manifests.items():
        if address not in kept:
            path = f"{store.root}/{address}"
            yield Garbage("artifact", address, path, manifest.bytes, "nothing kept needs it", not store.is_local)


def _unsealed(store: Store, manifests: dict[str, Manifest]) -> Iterator[Garbage]:
    """Yield directories at an artifact's place without a readable manifest: uploads cut short, or damaged."""
    with store.reaching("listing the store's files"):
        files = store.filesystem.find(store.root, detail=True)
    sizes: dict[str, int] = {}
    for name, details in files.items():
        parts = name[len(store.root) :].strip("/").split("/")
        if len(parts) > 2 and _KEY.fullmatch(parts[1]):
            sizes[f"{parts[0]}/{parts[1]}"] = sizes.get(f"{parts[0]}/{parts[1]}", 0) + details["size"]
    for key, size in sorted(sizes.items()):
        if key not in manifests:
            path = f"{store.root}/{key}"
            yield Garbage("unsealed", key, path, size, "no readable manifest: it is never served", not store.is_local)


def _work_directories(store: Store) -> Iterator[tuple[Path, str]]:
    for path in sorted(store.work_root.glob("*/*.work")):
        yield path, f"{path.parent.name}/{path.name.removesuffix('.work')}"


def _work_item(path: Path, key: str) -> Garbage:
    return Garbage("work", key, str(path), _size(path), "half-done, and no profile or sweep of the recipe plans it")


def _leftovers(store: Store) -> Iterator[Garbage]:
    if store.is_local:
        for path in sorted(Path(store.root).glob("*/*")):
            if _REPLACED in path.name or _DELETED in path.name:
                key = f"{path.parent.name}/{path.name.split('.')[0]}"
                why = "an earlier artifact of the same key" if _REPLACED in path.name else "a collection was cut short"
                yield Garbage("replaced", key, str(path), _size(path), why)
    for path in sorted(store.cache.glob("artifacts/*/*.part")):
        yield Garbage("download", f"{path.parent.name}/{path.name}", str(path), _size(path), "a download was cut short")


def _downloads(store: Store, kept: dict[str, str]) -> Iterator[Garbage]:
    for path in sorted(store.cache.glob("artifacts/*/*")):
        key = f"{path.parent.name}/{path.name[:16]}"
        if path.suffix != ".part" and key not in kept:
            yield Garbage("download", key, str(path), _size(path), "local copy of an artifact that is not kept")


def _records(store: Store, manifests: dict[str, Manifest], kept: dict[str, str]) -> Iterator[Garbage]:
    folder = (Path(store.root) if store.is_local else store.cache) / ".results"
    for path in sorted(folder.glob("*/*.json")):
        key = f"{path.parent.name}/{path.stem}"
        if key not in kept:
            why = "Prefect's record of an artifact that is not " + ("kept" if key in manifests else "there")
            yield Garbage("record", key, str(path), _size(path), why)


def _pages(store: Store, kept: int) -> Iterator[Garbage]:
    """Yield the pages of old runs; the one that always holds the newest page, and what `report` wrote, stay."""
    found: list[str] = store.filesystem.glob(f"{store.root}/{RUNS}/*/index.html")
    of_runs = [name for name in found if name.rsplit("/", 2)[-2] != LATEST]
    for name in sorted(of_runs, key=store.filesystem.modified, reverse=True)[kept:]:
        folder = name.rpartition("/")[0]
        size = int(store.filesystem.size(name) or 0)
        why = f"page of an old run; the newest {kept} stay"
        yield Garbage("page", f"{RUNS}/{folder.rsplit('/', 1)[-1]}", folder, size, why, not store.is_local)


def _locks(store: Store) -> Iterator[Garbage]:
    for path in sorted(store.lock_directory.glob("*-*.lock")):
        if ".lease" not in path.name:
            yield Garbage("lock", path.stem, str(path), _size(path), "no process holds it")


def _made(store: Store, item: Garbage, manifests: dict[str, Manifest]) -> float:
    """Return when a thing was last written (Unix seconds); renames count.

    An artifact's manifest says when by the clock of its maker, which may have been behind: the later of it and the
    file's own time counts.
    """
    if item.what == "artifact":
        manifest = manifests[item.key]
        with store.reaching(f"looking at {item.key}"):
            written = store.filesystem.modified(f"{item.path}/{MANIFEST_NAME}").timestamp()
        return max(datetime.fromisoformat(manifest.started).timestamp() + manifest.seconds, written)
    if item.remote:
        with store.reaching(f"looking at {item.key}"):
            return max(store.filesystem.modified(name).timestamp() for name in store.filesystem.find(item.path))
    root = Path(item.path)
    times = [0.0]
    for path in (root, *(root.rglob("*") if root.is_dir() else ())):
        with suppress(FileNotFoundError):
            status = path.stat()
            times.append(max(status.st_mtime, status.st_ctime) if path == root else status.st_mtime)
    return max(times)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _lock_files(store: Store, item: Garbage) -> list[Path]:
    if item.what == "lock":
        return [Path(item.path)]
    if item.what not in _LOCKED:
        return []
    stage, digits = item.key.split("/")
    path = store.lock_path(stage, digits)
    return [path] if path.exists() else []


def _delete(store: Store, item: Garbage) -> None:
    if item.remote:
        with suppress(FileNotFoundError):
            store.filesystem.rm_file(f"{item.path}/{MANIFEST_NAME}")
        store.filesystem.rm(item.path, recursive=True)
        return
    path = Path(item.path)
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    gone = path if item.what == "replaced" else path.with_name(f"{path.name}{_DELETED}{os.getpid()}")
    if gone != path:
        path.rename(gone)
    shutil.rmtree(gone)
