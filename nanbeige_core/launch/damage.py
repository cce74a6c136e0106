"""What an earlier attempt left and a disk has damaged since: a stage that goes on must not trust it, nor stop at it.

Files are committed whole (by a rename), so one that is cut was cut later: a power failure, a full or broken disk. Told
by the format alone; resume points of training look after themselves, and older ones are tried in their place.
"""

import json
import shutil
import zipfile
from pathlib import Path

from nanbeige_core.contract import SCRATCH

RESUME = "resume"
"""Directory of resume points, in the scratch directory of a stage or of a part of one."""
_PARTIAL = ("partial", ".part")
_PARQUET, _ARROW = b"PAR1", b"ARROW1"


def drop_damaged(work: Path) -> list[str]:
    """Delete what cannot be read of a half-done stage, and return its names below `work`; empty when all is well.

    Damaged files go alone: the stage makes them again. But an output that is older than what the stage works with (by
    the times of the files, which damage leaves as they are) counts as finished there, so with such a one everything
    goes; a younger one was just being written.
    """
    found = [path for path in sorted(work.rglob("*")) if _is_looked_at(path.relative_to(work)) and _is_damaged(path)]
    outputs = [path.stat().st_mtime for path in found if path.relative_to(work).parts[0] != SCRATCH]
    if outputs and min(outputs) <= max((path.stat().st_mtime for path in (work / SCRATCH).rglob("*")), default=0.0):
        shutil.rmtree(work)
    for path in found:
        path.unlink(missing_ok=True)
    return [path.relative_to(work).as_posix() for path in found]


def _is_looked_at(name: Path) -> bool:
    hidden = any(part.startswith(".") for part in name.parts)
    return not hidden and RESUME not in name.parts and not any(word in name.name for word in _PARTIAL)


def _is_damaged(path: Path) -> bool:
    if path.suffix not in _CHECKS or not path.is_file():
        return False
    return not _CHECKS[path.suffix](path)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _is_parquet(path: Path) -> bool:
    return _ends(path, len(_PARQUET)) == (_PARQUET, _PARQUET)


def _is_arrow(path: Path) -> bool:
    first, last = _ends(path, len(_ARROW))
    return first != _ARROW and bool(first) or last == _ARROW  # a stream has no such ends, but is never empty


def _is_array(path: Path) -> bool:
    import numpy as np  # here: it would slow the start of every command

    try:
        np.load(path, mmap_mode="r")
    except (ValueError, EOFError):
        return False
    return True


def _ends(path: Path, count: int) -> tuple[bytes, bytes]:
    with path.open("rb") as stream:
        first = stream.read(count)
        stream.seek(max(path.stat().st_size - count, 0))
        return first, stream.read(count)


_CHECKS = {
    ".json": _is_json,
    ".parquet": _is_parquet,
    ".arrow": _is_arrow,
    ".npy": _is_array,
    ".npz": zipfile.is_zipfile,
}
