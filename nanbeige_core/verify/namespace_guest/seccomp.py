"""A seccomp filter as classic BPF: which system calls untrusted programs may not make.

Denied calls fail with EPERM (`clone3` with ENOSYS, so that libc falls back to `clone`, whose flags can be read).
Sockets are allowed for AF_UNIX alone: a network namespace does not cover AF_VSOCK, which in a virtual machine is a
channel to the host. Numbers: Linux's syscall tables of x86-64 and of the generic 64-bit ABI (arm64).
"""

import ctypes
import errno
import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
DENIED: dict[str, tuple[int, int]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "memfd_secret": (447, 447),
}
SOCKET, CLONE, IOCTL, CLONE3 = (41, 198), (56, 220), (16, 29), (435, 435)
AF_UNIX, TIOCSTI = 1, 0x5412
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEW* flags of clone(2)."""
X32 = 0x40000000
_LOAD, _EQUAL, _ANY, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER_MODE = 38, 22, 2


def build_filter(machine: str) -> bytes:
    """Return the filter's instructions for a machine name as `platform.machine()` gives it.

    Raises KeyError for a machine whose system call numbers are not known here.
    """
    architecture, column = ARCHITECTURES[machine], 0 if machine == "x86_64" else 1
    refuse, allow = _ERROR | errno.EPERM, _ALLOW
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, X32), (_RETURN, 0, 0, _KILL)]
    for number in sorted(numbers[column] for numbers in DENIED.values()):
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    code += [(_EQUAL, 0, 1, CLONE3[column]), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    for number, offset, test, value, refused_if_true in (
        (SOCKET[column], _FIRST_ARGUMENT, _EQUAL, AF_UNIX, False),
        (CLONE[column], _FIRST_ARGUMENT, _ANY, NEW_NAMESPACES, True),
        (IOCTL[column], _SECOND_ARGUMENT, _EQUAL, TIOCSTI, True),
    ):
        verdicts = (refuse, allow) if refused_if_true else (allow, refuse)
        code += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, offset), (test, 0, 1, value)]
        code += [(_RETURN, 0, 0, verdict) for verdict in verdicts]
    code.append((_RETURN, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


libc = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    """The filter in the form that the kernel takes, made once: that costs more than installing it."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]  # noqa: RUF012

    def __init__(self, instructions: bytes) -> None:
        self.buffer = ctypes.create_string_buffer(instructions, len(instructions))
        super().__init__(len(instructions) // 8, ctypes.cast(self.buffer, ctypes.c_void_p))


def install(prepared: Filter) -> None:
    """Filter this process and all it will start; cannot be undone."""
    for arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(prepared), 0, 0)):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}) failed")
