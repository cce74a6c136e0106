"""What /proc says about the processes of a program, read by the fork server while it waits for an answer."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as the fork server sees them; processes that have ended are left out."""
    return [found for child in _children(pid) for found in (child, *descendants(child))]


def _fields(stat: Path) -> list[str]:
    try:
        return stat.read_text().rsplit(")", 1)[1].split()
    except OSError:  # it has ended
        return ["X", *["0"] * 20]


def wants_to_run(pid: int) -> bool:
    """Say whether any thread of a process runs or waits for a processor or a device."""
    states = [_fields(file)[0] for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return "R" in states or "D" in states


def spent(pid: int) -> float:
    """Return the processor seconds of a process and of those children that it has waited for."""
    return sum(map(int, _fields(Path(f"/proc/{pid}/stat"))[11:15])) / TICKS
