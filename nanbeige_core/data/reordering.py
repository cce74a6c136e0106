"""Bring rows into another order without holding them: an external sort whose target places are known."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nanbeige_core.data.dedup.shards import number_column

BUFFER_BYTES = 24 << 20
"""Rows held while they are put in order."""


class _Run(NamedTuple):
    """Rows in order, one batch for each file to be written; `places` of file n are `places[bounds[n]:bounds[n+1]]`."""

    path: Path
    places: NDArray[np.int64]
    bounds: NDArray[np.int64]


def ranks_of(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each row, from the rows in the wanted order."""
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def reorder(
    batches: Iterable[pa.RecordBatch],
    ranks: NDArray[np.int64],
    schema: pa.Schema,
    folder: Path,
    *,
    rows_per_file: int,
) -> list[Path]:
    """Write row r of all batches as row `ranks[r]` of `folder/00000.parquet`, `00001.parquet`, ... and return these.

    A finished `folder` is not written again; at least one file is written. Raises ValueError when there are more or
    fewer rows than ranks.
    """
    if not folder.exists():
        temporary = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        limits = np.arange(0, max(1, len(ranks)) + rows_per_file, rows_per_file)
        runs: list[_Run] = []
        for block, places in _blocks(batches, ranks, schema):
            runs.append(_write_run(temporary / f"run-{len(runs):04d}.arrow", block, places, limits))
            # before the next one is read
            del block
        for number in range(len(limits) - 1):
            pq.write_table(_merge(runs, number, schema), temporary / f"{number:05d}.parquet")
        for run in runs:
            run.path.unlink()
        os.replace(temporary, folder)
    return sorted(folder.glob("*.parquet"))


def _blocks(
    batches: Iterable[pa.RecordBatch], ranks: NDArray[np.int64], schema: pa.Schema
) -> Iterator[tuple[pa.Table, NDArray[np.int64]]]:
    held: list[pa.RecordBatch] = []
    first = rows = size = 0
    for batch in batches:
        held.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if size >= BUFFER_BYTES:
            yield _join(held, schema), ranks[first : first + rows]
            first, rows, size = first + rows, 0, 0
    if first + rows != len(ranks):
        raise ValueError(f"{first + rows} rows where {len(ranks)} were ranked: the table changed meanwhile. Run again.")
    if held:
        yield _join(held, schema), ranks[first:]


def _join(held: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    """Return batches as one that lies together, which is what taking rows makes of them each time, and forget them."""
    block = pa.Table.from_batches(held, schema).combine_chunks()
    held.clear()
    return block


def _write_run(path: Path, block: pa.Table, places: NDArray[np.int64], limits: NDArray[np.int64]) -> _Run:
    order = np.argsort(places)
    run = _Run(path, places[order], np.searchsorted(places[order], limits))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, block.schema) as writer:
        for low, high in zip(run.bounds[:-1], run.bounds[1:], strict=True):
            pieces = block.take(number_column(order[low:high])).to_batches()
            writer.write_batch(pieces[0] if pieces else pa.RecordBatch.from_pylist([], schema=block.schema))
    return run


def _merge(runs: list[_Run], number: int, schema: pa.Schema) -> pa.Table:
    batches: list[pa.RecordBatch] = []
    for run in runs:
        # read, not mapped: a page that is mapped stays in memory
        with pa.OSFile(str(run.path)) as source:
            batches.append(pa.ipc.open_file(source).get_batch(number))
    places = [run.places[run.bounds[number] : run.bounds[number + 1]] for run in runs]
    order = np.argsort(np.concatenate([np.empty(0, np.int64), *places]))
    return pa.Table.from_batches(batches, schema).take(number_column(order))
