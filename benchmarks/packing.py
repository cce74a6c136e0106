"""Packing of SFT samples: fill and speed against TRL's best-fit-decreasing, both in one run, on the same lengths.

TRL is no dependency: `pip install --no-deps --target DIR trl==1.16.0`, then

    PYTHONPATH=.:DIR python benchmarks/packing.py

Lengths are log-normal, as chat samples are. TRL's packing function decides and copies in one go: it is given tokens of
one byte, and its two copies are measured by themselves and taken off. Exit status 1 when ours fills less or is slower.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from trl import data_utils

from nanbeige_core.sft.packing import pack_best_fit

CAPACITY, REPEATS = 32_768, 3
SAMPLES = (2_000, 20_000)
console = Console(width=120)


class Side(NamedTuple):
    """How many windows one side needed, and its median time."""

    windows: int
    seconds: float


def draw_lengths(count: int) -> list[int]:
    """Return sample lengths in tokens, at most one window."""
    drawn = np.random.default_rng(0).lognormal(mean=8.0, sigma=1.0, size=count)
    return np.clip(drawn, 16, CAPACITY).astype(int).tolist()


def measure(pack: Callable[[], int]) -> Side:
    """Pack several times; return the windows and the median of processor seconds."""
    seconds: list[float] = []
    windows = 0
    for _ in range(REPEATS):
        start = time.process_time()
        windows = pack()
        seconds.append(time.process_time() - start)
    return Side(windows, statistics.median(seconds))


def as_table(lengths: list[int]) -> pa.Table:
    """Return samples of these lengths as TRL takes them."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    return pa.table({"input_ids": pa.ListArray.from_arrays(offsets, pa.array(np.zeros(sum(lengths), dtype=np.int8)))})


def copy(table: pa.Table) -> int:
    """Do what TRL does with the tokens beside deciding: cut each list to the window, and gather the lists in order."""
    cut = pc.list_slice(table["input_ids"].combine_chunks(), 0, CAPACITY)
    order = np.random.default_rng(1).permutation(len(cut))
    return len(pc.take(pa.table({"input_ids": cut}), order))


def main() -> int:
    table = Table("samples", "least windows", "side", "windows", "fill", "seconds", "ours is faster")
    beaten = False
    for count in SAMPLES:
        lengths = draw_lengths(count)
        total = sum(lengths)
        ours = measure(lambda given=lengths: len(pack_best_fit(given, CAPACITY)))
        table_of_tokens = as_table(lengths)
        theirs = measure(lambda given=table_of_tokens: len(data_utils._pack_bfd(given, CAPACITY)))
        copied = measure(lambda given=table_of_tokens: copy(given)).seconds
        decided = Side(theirs.windows, max(theirs.seconds - copied, 0.0))
        for name, side in (("ours", ours), ("TRL bfd, its copies taken off", decided), ("TRL bfd", theirs)):
            table.add_row(
                f"{count:,}",
                f"{-(-total // CAPACITY):,}",
                name,
                f"{side.windows:,}",
                f"{total / (side.windows * CAPACITY):.3%}",
                f"{side.seconds:.3f}",
                "" if name == "ours" else f"{side.seconds / ours.seconds:.1f}x",
            )
        beaten |= ours.windows > theirs.windows or ours.seconds > decided.seconds
    console.print(table)
    return int(beaten)


if __name__ == "__main__":
    sys.exit(main())
