"""CPU time and largest memory of a command, whatever the process that asks for them holds.

What the kernel tells of a process's largest resident size begins with the memory of the process that started it: a
parent that holds a corpus makes every child look as large as itself. So the command is started by a process that holds
nothing (this file, run as a program), which prints what the command took and everything it started, also what it never
waited for (the server that multiprocessing forks workers from): on Linux orphans become children of this process.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

PR_SET_CHILD_SUBREAPER = 36
"""Of <sys/prctl.h>: orphaned descendants become children of this process."""


class Taken(NamedTuple):
    """What one command took: the largest of its processes, and the CPU time of all of them."""

    megabytes: float
    cpu_seconds: float


def measure_command(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, log: IO[str] | None = None
) -> Taken | None:
    """Run a command to its end and return what it took, or None when it failed; `log` takes what it prints."""
    read, write = os.pipe()
    with os.fdopen(read) as answer:
        starter = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__)), str(write), *command],
            env=environment, stdout=log, stderr=log, pass_fds=(write,),
        )  # fmt: skip
        os.close(write)
        taken = answer.read()
    return Taken(**json.loads(taken)) if starter.wait() == 0 else None


def main() -> None:
    """Start the command and write what it took to the descriptor that was given."""
    answer, command = int(sys.argv[1]), sys.argv[2:]
    os.set_inheritable(answer, False)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    number, failed, largest, seconds = os.posix_spawnp(command[0], command, os.environ), False, 0, 0.0
    while True:
        try:
            ended, status, usage = os.wait4(-1, 0)
        except ChildProcessError:
            break
        failed |= ended == number and status != 0
        largest, seconds = max(largest, usage.ru_maxrss), seconds + usage.ru_utime + usage.ru_stime
    if failed:
        sys.exit(1)
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    os.write(answer, json.dumps(Taken(largest / scale, seconds)._asdict()).encode())


if __name__ == "__main__":
    main()
