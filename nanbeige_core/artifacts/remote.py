"""The file system behind a store's URL: opened with care, and its failures told in words.

Credentials come from the environment or the provider's own chain, never from the URL: it is shown in the UI and
written into records. Listings are not cached: another machine may have published meanwhile.
"""

import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.manifest import MANIFEST_NAME, Manifest, hash_file
from nanbeige_core.errors import ArtifactError, RecipeError
from nanbeige_core.redaction import carries_credentials, redact

_BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Protocols whose first path part is a bucket that must exist."""


def open_filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a folder or URL and the root inside it; touches no network.

    Raises RecipeError for a URL with credentials in it, an unknown protocol, or one whose package is not installed.
    """
    import fsspec

    if carries_credentials(url):
        raise RecipeError(
            f"the store URL {redact(url)} carries credentials: it would be shown in the UI and kept in records. Take "
            "them out; they come from the environment or the provider's own chain (for S3: AWS_PROFILE, or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    options = {"use_listings_cache": False} if "://" in url else {}
    try:
        return fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise RecipeError(
            f"the store URL {url} cannot be opened: {error}. Expected a folder, or an fsspec URL."
        ) from error


def is_local(filesystem: Any) -> bool:
    """Tell whether a file system is this machine's own."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(filesystem, LocalFileSystem)


@contextmanager
def reaching(url: str, doing: str) -> Generator[None]:
    """Turn whatever a remote store raises into an ArtifactError that says what was being done and what to do.

    Clients raise their own classes (botocore's are no OSError). FileNotFoundError passes as it is.
    """
    try:
        yield
    except (ArtifactError, FileNotFoundError):
        raise
    except Exception as error:
        raise unreachable(url, doing, error) from error


def unreachable(url: str, doing: str, error: BaseException) -> ArtifactError:
    """Return the error for a remote store that does not do what was asked; secrets in the cause are masked."""
    return ArtifactError(
        f"{doing}: the store {url} failed ({type(error).__name__}: {redact(str(error))}). Check that it can be reached "
        "and that the credentials in the environment are valid. Finished work is kept on this machine; run the same "
        "command again."
    )


def check_bucket(filesystem: Any, url: str, root: str) -> None:
    """Raise RecipeError when the bucket of a store does not exist, ArtifactError when the store cannot be reached."""
    if url.partition("://")[0] not in _BUCKETS:
        return
    bucket = root.split("/")[0]
    with reaching(url, "looking for the bucket"):
        with suppress(FileNotFoundError):  # clients call a bucket missing that they could not ask for; reading tells
            filesystem.cat_file(f"{root}/{MANIFEST_NAME}")
        there = filesystem.exists(bucket)
    if not there:
        raise RecipeError(
            f"the store {url} has no bucket {bucket}, or these credentials may not see it. Create the bucket, or "
            "correct --store."
        )


def upload(filesystem: Any, work: Path, where: str, manifest: Manifest) -> None:
    """Put an artifact's files, then its manifest.

    What lies there is taken away first, its manifest before all else: at no moment does a manifest stand beside files
    that are not its own.
    """
    if filesystem.exists(f"{where}/{MANIFEST_NAME}"):
        filesystem.rm_file(f"{where}/{MANIFEST_NAME}")
    stale: list[str] = filesystem.find(where)
    if stale:
        filesystem.rm(stale)
    names = list(manifest.files)
    filesystem.put([str(work / name) for name in names], [f"{where}/{name}" for name in names])
    filesystem.pipe_file(f"{where}/{MANIFEST_NAME}", manifest.model_dump_json(indent=1).encode())


def download(filesystem: Any, where: str, manifest: Manifest, target: Path, partial: Path) -> None:
    """Get an artifact's files, compare each with the manifest, then show the directory under its name.

    Raises ArtifactError when a file is not what the manifest says: damaged, or of two writers at one key.
    """
    shutil.rmtree(partial, ignore_errors=True)
    paths = {name: partial / name for name in manifest.files}
    for path in paths.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    filesystem.get([f"{where}/{name}" for name in paths], [str(path) for path in paths.values()])
    damaged = [name for name, path in paths.items() if hash_file(path) != manifest.files[name]]
    if damaged:
        shutil.rmtree(partial)
        raise ArtifactError(
            f"artifact {manifest.reference.address}: {', '.join(damaged)} in {where} is not what the manifest says "
            "(another SHA-256): damaged, or written by two machines at once. Nothing was served. "
            f"`nanbeige run --only {manifest.stage} --force` makes it again."
        )
    (partial / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():  # another process of this machine may have been first
            raise
        shutil.rmtree(partial, ignore_errors=True)
