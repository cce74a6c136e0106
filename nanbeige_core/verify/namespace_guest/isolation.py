"""Give each program namespaces of its own: user, processes, mounts, IPC, host name.

The fork server calls `leave_root` once. For a program it calls `fork_into_namespaces`, whose child is process 1 of the
new process namespace: it calls `name_users`, `cover_mounts` and `confine`, and from then on holds the untrusted code.
The kernel ends a namespace with its process 1, so nothing a program starts outlives it; and since signals without a
handler do not reach a process 1 from inside, limits end it from outside. The network namespace is the fork server's
own: it is empty, sockets other than AF_UNIX are refused, and one program runs in it at a time, so that one of its own
would cost time and separate nothing.
"""

import ctypes
import os
import platform
import resource
import signal

import seccomp  # pyright: ignore

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 1, 2, 4, 16384, 1 << 18
CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID = 0x00200000, 0x01000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_GET_TID_ADDRESS = 1, 4, 40
INSIDE, UNPRIVILEGED = 1000, 65534
"""User id that programs see, and the host's user id that a root host gives them."""
SCRATCH_BYTES, SCRATCH_FILES, SHARED_BYTES = 64 << 20, 4096, 32 << 20
FILE_BYTES, OPEN_FILES, PROCESSES, STACK_BYTES = 32 << 20, 128, 32, 64 << 20

libc = ctypes.CDLL(None, use_errno=True)
LIBC_WITH_LOCK = ctypes.PyDLL(None, use_errno=True)
"""Its calls keep the interpreter's lock, which a fork must not happen without."""
CLONE = seccomp.CLONE[0 if platform.machine() == "x86_64" else 1]


def _call(name: str, *arguments: object) -> None:
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name} failed: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def leave_root() -> None:
    """Become an unprivileged user if the host runs as root: a limit on processes binds nobody else."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)


def _thread_id_place() -> int:
    """Return where libc keeps the id of this thread, 0 where the kernel does not tell."""
    place = ctypes.c_void_p()
    told = libc.prctl(PR_GET_TID_ADDRESS, ctypes.byref(place), 0, 0, 0) == 0
    return place.value or 0 if told else 0


def fork_into_namespaces() -> int:
    """Fork; the child is process 1 of its new namespaces.

    Python's and libc's own fork cannot do this, and `unshare` would take one process more for every program. As libc's
    fork does, let the kernel write the new thread id to where libc keeps it. Python's hooks after a fork are not run:
    they would touch, and thereby copy, pages of modules that most programs never use.
    """
    flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
    flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID if THREAD_ID_PLACE else 0
    place = ctypes.c_void_p(THREAD_ID_PLACE)
    tail = (place, 0) if platform.machine() == "x86_64" else (0, place)  # and the place of thread-local storage
    pid = LIBC_WITH_LOCK.syscall(CLONE, flags | signal.SIGCHLD, 0, 0, *tail)
    if pid < 0:
        raise OSError(ctypes.get_errno(), f"clone failed: {os.strerror(ctypes.get_errno())}")
    return pid


def name_users(user: int, group: int) -> None:
    """Say who the one user of this new namespace is outside; only the fork server can still tell."""
    _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0)  # a changed user id made /proc/self/uid_map root's
    for name, text in (("setgroups", "deny"), ("uid_map", f"{INSIDE} {user} 1"), ("gid_map", f"{INSIDE} {group} 1")):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(file, text.encode())
        os.close(file)
    _call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


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


THREAD_ID_PLACE = _thread_id_place()


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]  # noqa: RUF012


# made before the fork: what a program's process writes to, it must copy, and that is most of what a run costs
THIS_PROCESS, NO_CAPABILITIES = _Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
FILTER = seccomp.Filter(seccomp.build_filter(platform.machine()))


def confine(*, cpu_seconds: int, memory_bytes: int) -> None:
    """Set limits, drop every capability and filter system calls; what follows in this process may be untrusted."""
    os.setsid()
    os.nice(3)  # the fork server must get its turn to stop a swarm
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
    _call("capset", ctypes.byref(THIS_PROCESS), ctypes.byref(NO_CAPABILITIES))
    seccomp.install(FILTER)
