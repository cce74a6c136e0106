"""The GPUs of this machine that a run may use."""

import os
from pathlib import Path


def visible_gpus() -> tuple[str, ...]:
    """Return them as CUDA_VISIBLE_DEVICES names them: that variable's where it is set, else all; none without a driver.

    Asks neither torch nor the driver: a plan must not wait for either.
    """
    numbers = sorted(int(path.name.removeprefix("nvidia")) for path in Path("/dev").glob("nvidia[0-9]*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not numbers or chosen is None:
        return tuple(map(str, numbers))
    return tuple(name.strip() for name in chosen.split(",") if name.strip())
