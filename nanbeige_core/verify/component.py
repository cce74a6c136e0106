"""Build CPython as a WebAssembly component once, and keep its compiled form in a cache directory.

The name carries a digest of the guest's sources and of the tools that made it, so a change of either builds anew.
Building takes about 15 s and compiling 15 s; loading takes 5 ms.

Two builds under one name are not the same bytes, for they hold the times of files, but they run every program with the
same fuel: their random numbers, the hash seed among them, are constants (`steady_build`). Where that cannot be done,
`build_digest` tells builds apart.
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

GUEST = Path(__file__).parent / "guest"
INSTALLED = Path(sys.prefix) / "share" / "nanbeige"
"""Where the project's set-up leaves the compiled guest, so that no stage has to wait for it."""
BUILD_SECONDS = 600.0
STEADY = Path(__file__).with_name("steady_build.py")
HASH_SEED = "0"
"""Asked of the build, for a componentize-py that hands it on; this one takes it from `steady_build`."""


class SandboxUnavailable(RuntimeError):
    """No sandbox engine works on this machine; programs are never run without one."""


def component_digest() -> str:
    """Return the digest that names the compiled guest: sources, tool versions, processor."""
    hasher = hashlib.sha256()
    for path in (*sorted(GUEST.glob("*.*")), STEADY):
        hasher.update(path.name.encode() + path.read_bytes())
    for package in ("componentize-py", "wasmtime"):
        hasher.update(f"{package}={_version(package)}".encode())
    hasher.update(f"{platform.system()} {platform.machine()} seed={HASH_SEED}".encode())
    return hasher.hexdigest()[:16]


def build_digest(compiled: Path) -> str:
    """Return the digest of a compiled guest itself, the same only where the build is the same."""
    with compiled.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise SandboxUnavailable(
            f"package {package} is not installed: code is only ever run inside the WebAssembly sandbox, which "
            f"needs it. Install it with `pip install {package}`."
        ) from error


def compiled_guest(cache: Path) -> Path:
    """Return the compiled guest: the installed one, or one in `cache`, built there when it is not there yet."""
    name = f"python-guest-{component_digest()}.cwasm"
    if (INSTALLED / name).exists():
        return INSTALLED / name
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / name
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                _compile(_build(Path(folder)), Path(folder) / "guest.cwasm")
                os.replace(Path(folder) / "guest.cwasm", target)
    return target


def _build(folder: Path) -> Path:
    command = [sys.executable, str(STEADY), "-d", "world.wit", "-w", "guest"]
    command += ["componentize", "app", "-o", "guest.wasm"]
    for path in GUEST.glob("*.*"):
        shutil.copy(path, folder)
    # a virtual environment in the environment would be packed into the component
    variables = {"PATH": os.defpath, "PYTHONHASHSEED": HASH_SEED, "HOME": str(folder)}
    try:
        subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=BUILD_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or getattr(error, "stdout", None) or ""
        raise SandboxUnavailable(
            f"building the WebAssembly Python failed: {error}. {output[-400:]} Code is never run without the "
            "sandbox. Check `pip install componentize-py` and that the cache directory has 100 MB free."
        ) from error
    return folder / "guest.wasm"


def _compile(component: Path, target: Path) -> None:
    from nanbeige_core.verify.guest_worker import open_engine

    target.write_bytes(open_engine().compile(component.read_bytes()))


if __name__ == "__main__":
    print(compiled_guest(Path(sys.argv[1]) if len(sys.argv) > 1 else INSTALLED))
