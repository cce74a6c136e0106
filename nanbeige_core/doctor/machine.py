"""The machine itself: device path, sandbox, disk, memory, file locks, and the packages the data kit reads."""

import os
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from nanbeige_core.cores import QUOTA, usable_cores
from nanbeige_core.doctor.finding import Finding

LAPTOP_DISK_BYTES = 1e9
"""A whole laptop run leaves 0.26 GB; checkpoints in the making and downloads come on top."""
LAPTOP_MEMORY_BYTES = 3e9
"""Two stages of two ranks side by side."""
LAPTOP_CORES = 2
_GIGABYTE = 1e9


def check_device() -> list[Finding]:
    """Import Megatron-Core as training does and say which path it takes here."""
    try:
        from nanbeige_core.megatron import device

        device.preload()
    except Exception as error:  # whatever stops the import stops every training stage
        found = f"Megatron-Core cannot be imported: {type(error).__name__}: {error}"
        return [Finding("device", "problem", found, "`make setup`, then `nanbeige doctor` again")]
    if not device.on_cuda():
        return [Finding("device", "ok", "CPU: gloo, Megatron's local layers; for GPUs see docs/how-to/one-gpu.md")]
    import torch

    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    found = [Finding("device", "ok", f"CUDA: {device.backend()}, {names}")]
    if not device.has_transformer_engine():
        remedy = "pip install --no-build-isolation '.[gpu]'"
        found.append(Finding("Transformer Engine", "note", "not installed: Megatron's local layers are used", remedy))
    return found


def check_sandbox(cache: Path) -> Finding:
    """Run a program in the code sandbox; without one, no stage that runs code can work."""
    from nanbeige_core.verify.sandbox import sandbox_level

    level = sandbox_level(cache)
    if level.startswith("wasm: none"):  # what the laptop profile's code tasks run in
        return Finding("code sandbox", "problem", level, "python -m nanbeige_core.verify.component")
    return Finding("code sandbox", "ok", level)


def check_disk(folder: Path) -> Finding:
    """Compare free space where the store lies with what a laptop run needs."""
    free = shutil.disk_usage(_existing(folder)).free
    found = f"{free / _GIGABYTE:.1f} GB free at {folder}"
    if free < LAPTOP_DISK_BYTES:
        needs = f"{found}; a laptop run needs {LAPTOP_DISK_BYTES / _GIGABYTE:.0f} GB"
        return Finding("disk", "problem", needs, "`nanbeige gc --delete`, or another --store")
    return Finding("disk", "ok", found)


def check_memory() -> Finding:
    """Compare memory that is free now with what a laptop run needs."""
    import psutil

    free = psutil.virtual_memory().available
    found = f"{free / _GIGABYTE:.1f} GB available"
    if free < LAPTOP_MEMORY_BYTES:
        return Finding(
            "memory", "note", f"{found}; a laptop run wants {LAPTOP_MEMORY_BYTES / _GIGABYTE:.0f} GB", "close programs"
        )
    return Finding("memory", "ok", found)


def check_cores(quota: Path = QUOTA) -> Finding:
    """Compare the cores this process may use, those of its container at most, with the two of the laptop profile."""
    cores = usable_cores(quota)
    level = "ok" if cores >= LAPTOP_CORES else "note"
    remedy = "" if level == "ok" else "it runs, in about twice the time"
    return Finding("cores", level, f"{cores} usable", remedy)


def check_locks(folder: Path) -> Finding:
    """Write below the store and hold a lock there twice; the second must be refused."""
    path = folder / ".locks" / f"doctor-{os.getpid()}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            try:
                FileLock(path).acquire(timeout=0)
            except Timeout:
                return Finding("store", "ok", f"{folder} can be written and locked")
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        return Finding("store", "problem", f"{folder}: {error}", "another --store, or correct its permissions")
    found = f"{folder}: its file system does not keep locks, so two runs could make one artifact at once"
    return Finding("store", "problem", found, "a local folder, or a network file system with working flock")


def check_sources(cache: Path) -> list[Finding]:
    """Say which Debian packages of the text sources are cached, can be had, or will be skipped; asks no network."""
    from nanbeige_core.data.sources import REGISTRY

    packages = sorted({source.package for source in REGISTRY.values() if source.needs == "debian"})
    cached = [name for name in packages if (cache / "downloads" / f"{name}.json").exists()]
    rest = [name for name in packages if name not in cached]
    if not rest:
        return [Finding("Debian texts", "ok", f"all {len(packages)} packages are cached")]
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        found = f"{len(cached)} of {len(packages)} packages are cached, apt-get is asked for {', '.join(rest)}"
        return [Finding("Debian texts", "ok", found)]
    found = f"no apt-get and dpkg-deb here: the sources in {', '.join(rest)} are skipped, less Chinese text is left"
    remedy = f"copy the packages and their records from another machine's {cache / 'downloads'}, or add ingest.sources"
    return [Finding("Debian texts", "note", found, remedy)]


def check_programs() -> Finding:
    """Say whether git is there; manifests then carry the commit of the code."""
    if shutil.which("git"):
        return Finding("git", "ok", "manifests carry the code's commit")
    return Finding("git", "note", "not installed: manifests cannot name the code's commit", "install git")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
