"""What SIGTERM asks of a worker: stop now; while it trains, stop after this step, with a resume point.

A signal handler that raises amid a step would lose everything since the last resume point, and one rank that leaves a
collective alone makes the others hang. Training loops therefore defer it and agree on it (`megatron.resume_points`).
"""

from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from nanbeige_core.errors import StageInterruptedError


class StopRequest:
    """A signal handler that raises StageInterruptedError, or only notes the request while somebody defers it."""

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal."""
        self.requested = True
        if not self._deferred:
            raise StageInterruptedError(f"signal {number}: told to stop")

    @contextmanager
    def deferred(self) -> Generator[None]:
        """Only note a request while the block runs; whoever enters it looks at `requested`."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
