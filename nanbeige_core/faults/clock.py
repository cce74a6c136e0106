"""A worker whose wall clock jumps: `python -m nanbeige_core.faults.clock SECONDS AFTER JOBFILE PARENT`.

What a set clock, a resumed virtual machine or a wrong time server does, in this one process: `time.time` is off by
SECONDS once AFTER seconds have passed. The monotonic clock goes on, as it does there. `datetime` keeps the true clock
(compiled libraries depend on its layout); no stage asks it.
"""

import os
import subprocess
import sys
import time

from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.worker import main


def start_with_jump(file: JobFile, seconds: float, after: float) -> "subprocess.Popen[bytes]":
    """Start the worker of a job whose clock jumps by `seconds` when `after` seconds have passed."""
    command = [sys.executable, "-m", __name__, str(seconds), str(after), str(file.path), str(os.getpid())]
    with file.log.open("wb") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def let_clock_jump(seconds: float, after: float) -> None:
    """Replace this process's wall clock."""
    true_time, true_time_ns, begin = time.time, time.time_ns, time.monotonic()

    def off() -> float:
        return seconds if time.monotonic() - begin >= after else 0.0

    time.time = lambda: true_time() + off()
    time.time_ns = lambda: true_time_ns() + int(off() * 1e9)


if __name__ == "__main__":
    let_clock_jump(float(sys.argv[1]), float(sys.argv[2]))
    sys.exit(main(sys.argv[3], int(sys.argv[4])))
