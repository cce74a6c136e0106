"""GPUs as slots: each GPU of a machine is a global concurrency limit of one slot on the Prefect server.

A count would not do: ranks take the GPUs they see from number 0 on, so two stages that share a machine must be told
which are theirs. The claim is all or nothing, for stages of every flow run of the server.
"""

import socket
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

from nanbeige_core.errors import StageError
from tasks.core_slots import CORE_SLOTS, take_slots
from tasks.server_gone import spared

_POLL_SECONDS = 1.0


def limit_name(gpu: str) -> str:
    """Return the name of the limit that stands for a GPU of this machine."""
    return f"gpu-{socket.gethostname()}-{gpu}"


@contextmanager
def hold_gpus(wanted: int, visible: Sequence[str]) -> Generator[tuple[str, ...]]:
    """Hold `wanted` of the GPUs this flow may use and yield which; none where the machine has none.

    A GPU is named as in CUDA_VISIBLE_DEVICES. Raises StageError when there are too few, StageInterruptedError when the
    run is stopped meanwhile. Without an answering server nothing is held and the stage sees every GPU.
    """
    if wanted > len(visible) > 0:
        raise StageError(
            f"runtime.processes is {wanted}, one GPU for each, but this machine offers {len(visible)} "
            f"({', '.join(visible)}). Lower runtime.processes, choose a launcher that reaches several machines, or "
            "correct CUDA_VISIBLE_DEVICES; then run the same command again."
        )
    with ExitStack() as stack:
        held: tuple[str, ...] = ()
        if wanted and visible:
            with spared("a claim on GPUs"):
                held = _claim(stack, wanted, visible)
        yield held


def _claim(stack: ExitStack, wanted: int, visible: Sequence[str]) -> tuple[str, ...]:
    while True:
        CORE_SLOTS.check_open()
        free = [gpu for gpu in visible if _is_free(gpu)][:wanted]
        if len(free) == wanted and take_slots(stack, [limit_name(gpu) for gpu in free], 1):
            return tuple(free)
        time.sleep(_POLL_SECONDS)


def _is_free(gpu: str) -> bool:
    """Tell whether nobody holds a GPU now; its limit is made when it is first asked for."""
    with get_client(sync_client=True) as client:
        try:
            return client.read_global_concurrency_limit_by_name(limit_name(gpu)).active_slots == 0
        except ObjectNotFound:
            pass
        try:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit_name(gpu), limit=1))
        except ObjectAlreadyExists:  # another run was first
            return False
    return True
