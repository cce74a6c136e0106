"""What a stage does when its Prefect server does not answer: it goes on, since it needs no server to be made.

Imports Prefect only where it is used: the server's settings must be made before.
"""

from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus


def is_gone(error: BaseException | None) -> bool:
    """Tell whether a client gave up on its server, however Prefect wraps that; a refused request is another matter."""
    from httpx import HTTPStatusError, TransportError

    if isinstance(error, HTTPStatusError):
        return error.response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, TransportError) or (error is not None and is_gone(error.__cause__))


@contextmanager
def spared(what: str) -> Generator[None]:
    """Let the block fail for want of a server, with a warning: it only tells people about work, or shares cores."""
    try:
        yield
    except Exception as error:
        if not is_gone(error):
            raise
        from prefect.logging import get_run_logger

        get_run_logger().warning(
            "The Prefect server did not take %s (%s: %s); the run goes on.", what, type(error).__name__, error
        )
