"""The manifest: one dot-prefixed JSON file per artifact, written last, that says what the artifact is.

Data walkers skip dot files, and an artifact without a valid manifest does not exist: a directory whose writer was
killed can therefore never be served.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.references import AnyRef, ArtifactRef, address, make_reference
from nanbeige_core.contract import Outcome

MANIFEST_NAME = ".artifact.json"
MANIFEST_VERSION = 1
_BLOCK_BYTES = 1 << 20


class FileEntry(BaseModel):
    """Size and content hash of one file of an artifact."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """What an artifact is, what it was made from, by which code, and what it cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    manifest_version: int = MANIFEST_VERSION
    kind: Kind
    schema_version: int
    stage: str
    uses: str
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    identity: dict[str, Any]
    inputs: dict[str, AnyRef]
    runtime: dict[str, Any]
    files: dict[str, FileEntry]
    digest: str
    outcome: Outcome
    code: dict[str, str]
    packages: dict[str, str]
    started: str
    seconds: float
    resources: dict[str, float] = Field(default_factory=dict)

    @field_validator("stage")
    @classmethod
    def validate_stage(cls, stage: str) -> str:
        """A stage is one folder's name: a manifest from elsewhere must not lead out of the store."""
        if not stage or stage in (".", "..") or any(letter in stage for letter in "/\\\0"):
            raise ValueError(f"{stage!r} is no name of a folder")
        return stage

    @field_validator("files")
    @classmethod
    def validate_names(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        """Files lie below the artifact's own folder: what is downloaded is written under these names."""
        for name in files:
            if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
                raise ValueError(f"{name!r} is no path below an artifact")
        return files

    @property
    def address(self) -> str:
        """Return the readable address, `reference.address` without making a reference."""
        return address(self.stage, self.fingerprint)

    @property
    def reference(self) -> ArtifactRef:
        """Return the typed reference to this artifact."""
        return make_reference(self.kind, stage=self.stage, fingerprint=self.fingerprint, digest=self.digest)

    @property
    def bytes(self) -> int:
        """Return the artifact's size in bytes."""
        return sum(entry.bytes for entry in self.files.values())


def hash_file(path: Path) -> FileEntry:
    """Return size (bytes) and SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def hash_tree(directory: Path, skip: Iterable[str] = ()) -> dict[str, FileEntry]:
    """Hash every file below `directory`; top-level names in `skip` and the manifest itself are left out."""
    skipped = {MANIFEST_NAME, *skip}
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): hash_file(path)
        for path in files
        if path.relative_to(directory).parts[0] not in skipped
    }


def digest_files(files: dict[str, FileEntry]) -> str:
    """Return one SHA-256 over names, sizes and hashes of all files."""
    rows = [[name, entry.bytes, entry.sha256] for name, entry in sorted(files.items())]
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
