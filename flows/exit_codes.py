"""Exit statuses of the `nanbeige` command, in one place: scripts and schedulers rely on them."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit status says."""

    DONE = 0
    FAILED = 1
    WRONG_REQUEST = 2
    NOT_READY = 3
    RESUME = 75
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """Return the meaning in one line, as `nanbeige --help` and the documentation print it."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.DONE: "done, or nothing to do",
    ExitCode.FAILED: "a stage failed, or an artifact is missing or damaged; finished work is kept",
    ExitCode.WRONG_REQUEST: "the request or the recipe is wrong; nothing was started",
    ExitCode.NOT_READY: "this machine cannot run the laptop profile (doctor)",
    ExitCode.RESUME: "told to stop (SIGTERM); the same command goes on from where it was",
    ExitCode.INTERRUPTED: "interrupted; run the same command again to go on",
}


def exit_code_table() -> str:
    """Return every status with its meaning, one line each."""
    return "\n\n".join(f"{code.value}: {code.meaning}" for code in ExitCode)
