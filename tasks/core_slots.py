"""Cores as slots: stages of one process, and of every run of one Prefect server, share the machine's cores."""

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from nanbeige_core.errors import StageInterruptedError
from tasks.server_gone import spared

CORES_LIMIT = "cores"
"""Name of the global concurrency limit that `up` creates; without it only the stages of one process share."""

_LEASE_SECONDS = 60
_ASK_SECONDS = 10


class CoreSlots:
    """Let stages share a number of cores: a weighted semaphore, first come first served."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._used = 0
        self._closed = False

    @contextmanager
    def hold(self, wanted: int, total: int) -> Generator[None]:
        """Hold `wanted` of `total` cores (never more than all of them), here and on the server.

        Raises StageInterruptedError when the run is stopped meanwhile.
        """
        count = min(wanted, total)
        self._take(count, total)
        try:
            with self._on_server(count):
                yield
        finally:
            with self._condition:
                self._used -= count
                self._condition.notify_all()

    def close(self) -> None:
        """Let no further stage start: the run is being stopped."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _take(self, count: int, total: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._used + count <= total)
            self.check_open()
            self._used += count

    @contextmanager
    def _on_server(self, count: int) -> Generator[None]:
        with ExitStack() as stack:
            with spared("a claim on cores"):
                self._claim(stack, count)
            yield

    def _claim(self, stack: ExitStack, count: int) -> None:
        limit = _server_limit()
        while limit:
            self.check_open()
            if take_slots(stack, [CORES_LIMIT], min(count, limit)):
                return

    def check_open(self) -> None:
        """Raise StageInterruptedError when the run is being stopped."""
        if self._closed:
            raise StageInterruptedError("not started: the run was stopped. Run the same command again to go on.")


def take_slots(stack: ExitStack, limits: list[str], occupy: int) -> bool:
    """Ask the server for slots of every limit, until `stack` closes; return whether it gave them in time."""
    # a lost lease must not stop hours of training; a killed holder's slots come back with its lease
    slots = concurrency(
        limits,
        occupy=occupy,
        timeout_seconds=_ASK_SECONDS,
        lease_duration=_LEASE_SECONDS,
        raise_on_lease_renewal_failure=False,
    )
    try:
        slots.__enter__()
    except TimeoutError:
        return False
    stack.callback(_give_back, slots)
    return True


def _give_back(slots: AbstractContextManager[None]) -> None:
    with spared("slots given back"):
        slots.__exit__(None, None, None)


def _server_limit() -> int:
    """Return how many cores the server shares out, 0 when it has no such limit."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(CORES_LIMIT)
        except ObjectNotFound:
            return 0
    return limit.limit if limit.active else 0


CORE_SLOTS = CoreSlots()
