"""Start a command that ends with its parent: `python tied.py KILL 4711 command ...` (4711: the parent's process id).

The kernel's parent-death signal survives `exec`, so the command itself needs to know nothing. Run as a file, not as a
module: it imports only the standard library and is gone after a few milliseconds. Elsewhere than on Linux the command
just runs, and an orderly stop is the only one there is.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def tied_command(command: list[str], signal_name: str, parent: int | None = None) -> list[str]:
    """Return a command line that runs `command` and sends it SIG<signal_name> when the process starting it dies."""
    return [sys.executable, "-S", "-E", os.path.abspath(__file__), signal_name, str(parent or 0), *command]


def _main(signal_name: str, parent: int, command: list[str]) -> None:
    started_by = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.Signals[f"SIG{signal_name}"])
    if os.getppid() != (parent or started_by):
        sys.exit(0)  # the parent died before the tie was made
    os.execvp(command[0], command)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
