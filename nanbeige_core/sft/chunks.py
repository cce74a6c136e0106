"""Work through a list in chunks that ranks share and that survive a kill.

A chunk is committed by an atomic rename and never redone; an uncommitted one is redone whole. A chunk's number, not
its rank, seeds its random draws, so the result is the same on any number of ranks.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nanbeige_core.contract import Progress
from nanbeige_core.launch.ranks import barrier, rank, world_size

Item = TypeVar("Item")
Row = dict[str, Any]


def run_chunks(
    items: Sequence[Item],
    work: Callable[[int, Sequence[Item]], list[Row]],
    *,
    chunk_items: int,
    directory: Path,
    progress: Progress,
) -> list[Row]:
    """Return what `work(number, chunk)` gives for every chunk, in order, on every rank.

    Rank r takes chunks r, r + world size, ...; rows must be JSON-able. Collective: one barrier.
    """
    directory.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(items), chunk_items)
    paths = [directory / f"{number:06d}.json" for number in range(len(starts))]
    for number in range(rank(), len(paths), world_size()):
        if not paths[number].exists():
            commit(paths[number], work(number, items[starts[number] : starts[number] + chunk_items]))
        progress((number + 1) / len(paths), f"chunk {number + 1} of {len(paths)}")
    barrier()
    return [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]


def commit(path: Path, rows: list[Row]) -> None:
    """Write rows so that the file is either absent or whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
