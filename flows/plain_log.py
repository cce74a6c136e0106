"""What a terminal shows of a failed stage: its message once, without the way that it took through the orchestrator."""

import logging

from nanbeige_core.errors import StageError

_UNSTORED = "Failed to write result"
"""Prefect's warning that it cannot keep an error as it keeps an artifact's reference."""


class _NoTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out records that tell a stage's error with a traceback; the state of the run tells it in a line."""
        if record.exc_info and isinstance(record.exc_info[1], StageError):
            return False
        return not (record.getMessage().startswith(_UNSTORED) and StageError.__name__ in record.getMessage())


_FILTER = _NoTraceback()


def hide_tracebacks() -> None:
    """Keep tracebacks of stages' errors from the terminal; the log of the stage and Prefect's pages have them."""
    for handler in logging.getLogger().handlers:  # Prefect's console is the root logger's
        handler.addFilter(_FILTER)  # twice is once
