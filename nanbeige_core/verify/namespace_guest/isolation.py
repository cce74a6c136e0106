"""Give each program namespaces of its own: user, processes, mounts, IPC, network, host name.

The fork server calls `enter_namespaces` in a child, `cover_mounts` in the child's child (which is process 1 of the
new process namespace and stays trusted), and `confine` in the process that will hold untrusted code.
"""

import ctypes
import os
import resource
from pathlib import Path

import seccomp  # pyright: ignore

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 1, 2, 4, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, SIGKILL = 1, 4, 9
INSIDE, UNPRIVILEGED = 1000, 65534
"""User id that programs see, and the host's user id that a root host gives them."""
SCRATCH_BYTES, SCRATCH_FILES, SHARED_BYTES = 64 << 20, 4096, 32 << 20
FILE_BYTES, OPEN_FILES, PROCESSES, STACK_BYTES = 32 << 20, 128, 32, 64 << 20

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    _call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)


def enter_namespaces() -> None:
    """Leave root if the host runs as root, and move to new namespaces; the next child is process 1 of its own."""
    if os.getuid() == 0:
        # a limit on processes binds only where the host's user is not root
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
    user, group = os.getuid(), os.getgid()
    _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # a changed user id made /proc/self/uid_map root's
    _call("unshare", CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{INSIDE} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{INSIDE} {group} 1")


def cover_mounts() -> None:
    """Mount empty, bounded file systems over everything writable, and over /proc."""
    _call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    sizes = (
        (b"/proc", b"size=4k,nr_inodes=4,mode=555", MS_RDONLY),
        (b"/tmp", f"size={SCRATCH_BYTES},nr_inodes={SCRATCH_FILES},mode=1777".encode(), 0),
        (b"/dev/shm", f"size={SHARED_BYTES},nr_inodes=256,mode=1777".encode(), 0),
    )
    for target, options, flags in sizes:
        _call("mount", b"tmpfs", target, b"tmpfs", MS_NOSUID | MS_NODEV | flags, options)
    os.chdir("/tmp")


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # noqa: RUF012


def confine(*, cpu_seconds: int, memory_bytes: int) -> None:
    """Set limits, drop every capability and filter system calls; what follows in this process may be untrusted."""
    os.setsid()
    os.nice(10)  # the fork server must get its turn to stop a swarm
    limits = {
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds),
        resource.RLIMIT_AS: (memory_bytes, memory_bytes),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_NPROC: (PROCESSES, PROCESSES),
        resource.RLIMIT_STACK: (STACK_BYTES, STACK_BYTES),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, bounds in limits.items():
        resource.setrlimit(kind, bounds)
    nothing = (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(_Header(0x20080522, 0)), ctypes.byref(nothing))
    seccomp.install()
