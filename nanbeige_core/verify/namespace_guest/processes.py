"""What /proc says about the processes of a program, read by the fork server while it waits for an answer."""

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
SCHEDULED = 2
"""In the number of a process's clock: the time it was scheduled, in nanoseconds; /proc counts hundredths."""


def _read(path: str) -> bytes:
    """Return a small file of /proc, empty where the process has ended."""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            return os.read(file, 1 << 16)
        finally:
            os.close(file)
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as the fork server sees them; processes that have ended are left out."""
    children = map(int, _read(f"/proc/{pid}/task/{pid}/children").split())
    return [found for child in children for found in (child, *descendants(child))]


def wants_to_run(pid: int) -> bool:
    """Say whether any thread of a process runs or waits for a processor or a device."""
    states = [_fields(str(file))[:1] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return [b"R"] in states or [b"D"] in states


def spent(pid: int) -> float:
    """Return the processor seconds of a process and of those children that it has waited for."""
    waited_for = sum(map(int, _fields(f"/proc/{pid}/stat")[13:15])) / TICKS
    try:
        return time.clock_gettime(~pid << 3 | SCHEDULED) + waited_for
    except OSError:  # it has ended
        return waited_for


def _fields(path: str) -> list[bytes]:
    """Return what follows the name in a stat file, the state first."""
    return _read(path).rpartition(b")")[2].split()
