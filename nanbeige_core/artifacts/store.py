"""The artifact store: sealed, immutable directories under any fsspec URL.

`<root>/<stage>/<fingerprint16>/` holds a sealed artifact; `<work root>/<stage>/<fingerprint16>.work/` the one being
made, named by the same key so that any later run finds it and goes on. Sealing checks the layout, hashes every file,
writes the manifest last and renames; on an object store the manifest is uploaded last. Work that is sealed but not yet
published (a store that died meanwhile) is published by the next run, not made again.
"""

import errno
import glob
import json
import os
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from pydantic import ValidationError

from nanbeige_core.artifacts.kinds import LAYOUTS, Kind
from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest, digest_files, hash_tree
from nanbeige_core.artifacts.references import ArtifactRef, address
from nanbeige_core.artifacts.remote import (
    check_bucket,
    download,
    is_local,
    open_filesystem,
    reaching,
    unreachable,
    upload,
)
from nanbeige_core.contract import SCRATCH
from nanbeige_core.errors import ArtifactError

CONTROL = ".control"
"""Directory inside a work directory for job, log and outcome files; never sealed."""
PINS, ALIASES = ".pins", ".aliases"
"""Directories of the store that hold what people keep (`pins.py`)."""
RUNS, LATEST = "runs", "latest"
"""Directory of the store that keeps the pages of runs, and the one in it that always holds the newest page."""


@dataclass(frozen=True)
class Found:
    """An address that was looked at: its manifest when it can be served, else why not."""

    manifest: Manifest | None
    problem: str = ""


class Store:
    """Keep artifacts under `url`; `cache` is a local directory for work, downloads and locks."""

    def __init__(self, url: str | Path, cache: Path) -> None:
        self.url = str(url)
        if "://" in self.url:
            self.filesystem, self.root = open_filesystem(self.url)
            self.is_local = is_local(self.filesystem)
        else:
            self.root, self.is_local = os.path.abspath(os.path.expanduser(self.url)), True
        self.cache = cache.absolute()
        self.work_root = Path(self.root) if self.is_local else self.cache / "work"

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system; a folder's is opened when first asked for, as a plan does without (0.1 s)."""
        return open_filesystem(self.url)[0]

    @contextmanager
    def reaching(self, doing: str) -> Generator[None]:
        """Turn a remote store's failure into an ArtifactError that says what was being done; see `remote.reaching`."""
        if self.is_local:
            yield
            return
        with reaching(self.url, doing):
            yield

    def check(self) -> None:
        """Raise RecipeError when the store's bucket is not there, ArtifactError when it cannot be reached."""
        if not self.is_local:
            check_bucket(self.filesystem, self.url, self.root)

    # ---- looking

    def look(self, stage: str, fingerprint: str) -> Found:
        """Return the artifact's manifest if every file is there with its recorded size, else the reason."""
        where = f"{self.root}/{address(stage, fingerprint)}"
        try:
            # expired credentials or a lost connection are no reason to make an artifact again: they raise
            with self.reaching(f"looking for the artifact of {stage}"):
                text = self._read(f"{where}/{MANIFEST_NAME}")
            manifest = Manifest.model_validate_json(text)
        except FileNotFoundError:
            return Found(None, "not there")
        except (OSError, ValidationError, ValueError) as error:
            return Found(None, f"its manifest cannot be read ({type(error).__name__})")
        if manifest.fingerprint != fingerprint:
            return Found(None, f"its manifest carries the fingerprint {manifest.fingerprint[:16]}")
        with self.reaching(f"looking for the files of {stage}"):
            problem = self._missing_or_resized(where, manifest)
        return Found(None, problem) if problem else Found(manifest)

    def _read(self, path: str) -> bytes:
        if self.is_local:
            with open(path, "rb") as file:
                return file.read()
        return self.filesystem.cat_file(path)

    def find(self, stage: str, fingerprint: str) -> Manifest | None:
        """Return the manifest of a servable artifact, or None."""
        return self.look(stage, fingerprint).manifest

    def _missing_or_resized(self, where: str, manifest: Manifest) -> str:
        sizes = self._sizes(where, manifest)
        for name, entry in manifest.files.items():
            size = sizes.get(name)
            if size != entry.bytes and not self.is_local:  # a listing may lag behind what is there
                size = self._size(f"{where}/{name}")
            if size is None:
                return f"its file {name} is missing"
            if size != entry.bytes:
                return f"its file {name} has {size} bytes, the manifest says {entry.bytes}"
        return ""

    def _size(self, path: str) -> int | None:
        try:
            return int(self.filesystem.info(path)["size"])
        except FileNotFoundError:
            return None

    def _sizes(self, where: str, manifest: Manifest) -> dict[str, int]:
        """Return the bytes of the manifest's files that are there."""
        sizes: dict[str, int] = {}
        if self.is_local:  # a listing through fsspec takes five times as long, and a plan looks at every stage
            for name in manifest.files:
                with suppress(FileNotFoundError, NotADirectoryError):
                    sizes[name] = os.stat(f"{where}/{name}").st_size
            return sizes
        for name, details in self.filesystem.find(where, detail=True).items():
            sizes[name.removeprefix(where).lstrip("/")] = details["size"]
        return sizes

    def manifests(self, stage: str | None = None) -> list[Manifest]:
        """Return every readable manifest, newest first; `stage` limits the search to one stage.

        Directories with a dot in their name are work, or artifacts that were replaced: they are not served.
        """
        found: list[Manifest] = []
        for text in self._texts(self._manifest_files(stage or "*")):
            with suppress(ValidationError, ValueError):
                found.append(Manifest.model_validate_json(text))
        return sorted(found, key=lambda manifest: manifest.started, reverse=True)

    def _texts(self, names: list[str]) -> Iterator[bytes]:
        """Yield the content of every file that can be read; from a remote store, many at once."""
        if self.is_local or not names:
            for name in names:
                with suppress(OSError):
                    yield self._read(name)
            return
        for answer in self.filesystem.cat(names, on_error="return").values():
            if isinstance(answer, bytes):
                yield answer
            elif not isinstance(answer, FileNotFoundError):
                raise unreachable(self.url, "reading manifests", answer) from answer

    def unreadable(self) -> dict[str, str]:
        """Return `address -> problem` of every directory with a manifest that cannot be read."""
        readable = {manifest.address for manifest in self.manifests()}
        keys = ("/".join(name.rsplit("/", 3)[-3:-1]) for name in self._manifest_files("*"))
        return {key: "its manifest cannot be read" for key in keys if key not in readable}

    def _manifest_files(self, stage: str) -> list[str]:
        if self.is_local:  # through fsspec every file of every artifact is looked at
            names = glob.glob(f"{glob.escape(self.root)}/{stage}/*/{MANIFEST_NAME}")
        else:
            with self.reaching("listing artifacts"):
                names = cast(list[str], self.filesystem.glob(f"{self.root}/{stage}/*/{MANIFEST_NAME}"))
        return [name for name in names if "." not in name.rsplit("/", 2)[-2]]

    def resolve(self, text: str) -> Manifest:
        """Return the manifest for `stage`, `stage/prefix`, a fingerprint prefix (newest match), or `@alias`.

        Raises ArtifactError when nothing matches.
        """
        if text.startswith("@"):
            text = self._address_of_alias(text.removeprefix("@"))
        stage, _, prefix = text.rpartition("/") if "/" in text else ("", "", text)
        for manifest in self.manifests(stage or None):
            if manifest.fingerprint.startswith(prefix) or (not stage and manifest.stage == text):
                return manifest
        raise ArtifactError(
            f"no artifact matches {text!r} in {self.url}; expected a stage name, a fingerprint prefix, "
            "stage/prefix or @alias. `nanbeige ls` lists what is there."
        )

    def _address_of_alias(self, name: str) -> str:
        try:
            with self.reaching(f"reading the alias @{name}"):
                entry = json.loads(self.filesystem.cat_file(f"{self.root}/{ALIASES}/{name}.json"))
        except FileNotFoundError as error:
            raise ArtifactError(f"no alias @{name} in {self.url}. `nanbeige pins` lists pins and aliases.") from error
        return address(entry["stage"], entry["fingerprint"])

    # ---- serving

    def open(self, reference: ArtifactRef) -> tuple[Manifest, Path]:
        """Return manifest and local directory of an artifact; download it first from a remote store.

        Raises ArtifactError when it is missing, incomplete, or not the type or content the reference names.
        """
        found = self.look(reference.stage, reference.fingerprint)
        if found.manifest is None:
            raise ArtifactError(
                f"artifact {reference.address} ({reference.kind}) cannot be used: {found.problem}. "
                f"Run `nanbeige run --only {reference.stage}` to make it again."
            )
        manifest = found.manifest
        if manifest.kind != reference.kind or manifest.digest != reference.digest:
            raise ArtifactError(
                f"artifact {reference.address} is a {manifest.kind} with digest {manifest.digest[:12]}, but the "
                f"reference expects a {reference.kind} with digest {reference.digest[:12]}: it was made again or "
                "replaced. Run the stage that reads it again."
            )
        return manifest, self.local_path(manifest)

    def local_path(self, manifest: Manifest) -> Path:
        """Return a local directory holding the artifact's files, downloading once from a remote store.

        Raises ArtifactError when what was downloaded is not what the manifest says.
        """
        where = address(manifest.stage, manifest.fingerprint)
        if self.is_local:
            return Path(self.root) / where
        target = self.cache / "artifacts" / f"{where}-{manifest.digest[:12]}"
        if not target.exists():
            partial = target.with_name(f"{target.name}.{os.getpid()}-{os.urandom(3).hex()}.part")
            with self.reaching(f"downloading {manifest.reference.address}"):
                download(self.filesystem, f"{self.root}/{where}", manifest, target, partial)
        return target

    def verify(self, manifest: Manifest) -> list[str]:
        """Hash every file again and return what differs from the manifest (empty: all as recorded)."""
        path = self.local_path(manifest)
        actual = hash_tree(path)
        names = sorted(set(actual) | set(manifest.files))
        return [name for name in names if actual.get(name) != manifest.files.get(name)]

    # ---- making

    def work_directory(self, stage: str, fingerprint: str) -> Path:
        """Return the directory in which the artifact is made (not created here)."""
        return self.work_root / f"{address(stage, fingerprint)}.work"

    def has_work(self, stage: str, fingerprint: str) -> bool:
        """Tell whether an earlier run left something to resume."""
        work = self.work_directory(stage, fingerprint)
        return work.is_dir() and any(child.name != CONTROL for child in work.iterdir())

    @property
    def lock_directory(self) -> Path:
        """Return the local directory of the single-flight locks (not created here)."""
        return (Path(self.root) if self.is_local else self.cache) / ".locks"

    def lock_path(self, stage: str, fingerprint: str) -> Path:
        """Return the file of the single-flight lock of one key (not created here); 16 digits are enough."""
        return self.lock_directory / f"{stage}-{fingerprint[:16]}.lock"

    @contextmanager
    def lock(self, stage: str, fingerprint: str) -> Generator[None]:
        """Hold the single-flight lock of one key; the kernel frees it when its holder dies.

        Valid between processes of one host, or on a shared file system with working flock. Raises ArtifactError when
        the store cannot be written.
        """
        lock = FileLock(self.lock_path(stage, fingerprint))
        try:
            self.lock_directory.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            raise write_error(error, f"stage {stage} cannot lock its artifact in {self.lock_directory}") from error
        try:
            yield
        finally:
            lock.release()

    def write(self, name: str, content: bytes) -> None:
        """Write a small file of the store (a pin, a page); a reader never sees half of it.

        Raises ArtifactError when a remote store cannot be reached.
        """
        path = f"{self.root}/{name}"
        if self.is_local:
            self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self.filesystem.pipe_file(f"{path}.part", content)
            self.filesystem.mv(f"{path}.part", path)
            return
        with self.reaching(f"writing {name}"):  # an object store's put is atomic by itself, and it has no directories
            self.filesystem.pipe_file(path, content)

    def seal(self, work: Path, draft: Manifest) -> Manifest:
        """Turn a finished work directory into a served artifact and return its final manifest.

        `draft` carries everything but files and digest. Raises ArtifactError when a required file is missing, the disk
        is full, or a remote store cannot be reached; the work directory then stays, and `publish_sealed` goes on.
        """
        check_layout(work, draft.kind, draft.stage)
        files = hash_tree(work, skip=(SCRATCH, CONTROL))
        manifest = draft.model_copy(update={"files": files, "digest": digest_files(files)})
        try:
            _write_durably(work / MANIFEST_NAME, manifest.model_dump_json(indent=1))
            for name in (SCRATCH, CONTROL):
                shutil.rmtree(work / name, ignore_errors=True)
            self._publish(work, manifest)
        except OSError as error:
            raise write_error(error, f"sealing {draft.stage} in {self.url}") from error
        return manifest

    def publish_sealed(self, stage: str, fingerprint: str) -> Manifest | None:
        """Publish what an earlier run sealed and could not publish; None when there is no such work, or it changed."""
        work = self.work_directory(stage, fingerprint)
        path = work / MANIFEST_NAME
        if not path.exists():
            return None
        try:
            manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError:
            path.unlink()
            return None
        if manifest.fingerprint != fingerprint or hash_tree(work, skip=(SCRATCH, CONTROL)) != manifest.files:
            path.unlink()
            return None
        try:
            self._publish(work, manifest)
        except OSError as error:
            raise write_error(error, f"publishing {stage} in {self.url}") from error
        return manifest

    def _publish(self, work: Path, manifest: Manifest) -> None:
        where = address(manifest.stage, manifest.fingerprint)
        if self.is_local:
            final = Path(self.root) / where
            if final.exists():
                final.rename(final.with_name(f"{final.name}.replaced-{os.getpid()}-{os.urandom(3).hex()}"))
            work.rename(final)
            return
        with self.reaching(f"publishing the artifact of {manifest.stage}"):
            upload(self.filesystem, work, f"{self.root}/{where}", manifest)
        shutil.rmtree(work)


def check_layout(directory: Path, kind: Kind, stage: str) -> None:
    """Raise ArtifactError unless `directory` holds every file pattern that `kind` requires."""
    layout = LAYOUTS[kind]
    for pattern in layout.required:
        if not any(directory.glob(pattern)):
            raise ArtifactError(
                f"stage {stage} finished without {pattern}, which every {kind} ({layout.holds}) must hold; "
                f"nothing was sealed. Its work directory {directory} is kept for inspection."
            )


def _write_durably(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.rename(path)


def write_error(error: OSError, doing: str) -> ArtifactError:
    """Return the error a person is shown when the store cannot be written; `doing` says what and where."""
    if error.errno == errno.ENOSPC:
        return ArtifactError(
            f"{doing}: the disk is full. Nothing half-written is served and finished work is kept; "
            "free space (old artifacts can be deleted) and run the same command again."
        )
    return ArtifactError(f"{doing}: {error}. Finished work is kept; run the same command again.")
