"""The cores of this machine that this process may use."""

import math
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how much of the machine a container gets."""


def usable_cores(quota: Path = QUOTA) -> int:
    """Return how many cores this process may run on: what the scheduler or the container gives of the machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        given, period = quota.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if given == "max" else max(1, min(cores, math.ceil(int(given) / int(period))))
