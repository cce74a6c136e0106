"""Screen a pool: what fails a format gate or quotes an evaluation item goes, file by file on all cores."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from nanbeige_core.data.cores import map_in_order
from nanbeige_core.data.decontamination import TargetIndex
from nanbeige_core.data.duplicates import drops
from nanbeige_core.data.pool import Pool
from nanbeige_core.data.tables import read_table, write_table


class Screened(NamedTuple):
    """What screening left, and what it dropped in the order of the pool."""

    clean: Pool
    dropped: pa.Table


def screen(pool: Pool, targets: TargetIndex, folder: Path, *, workers: int = 1) -> Screened:
    """Remove documents that fail a format gate or share a long run with an evaluation item; write the others."""
    files = [folder / f"{number:05d}.parquet" for number in range(len(pool.files))]
    pairs = zip(pool.files, files, strict=True)
    dropped = list(map_in_order(lambda pair: screen_file(*pair, targets), pairs, workers))
    return Screened(Pool(tuple(files)), pa.concat_tables(dropped))


def screen_file(source: Path, target: Path, targets: TargetIndex) -> pa.Table:
    """Write the documents of one file that pass and return the others."""
    table = read_table(source)
    ids: list[str] = table["id"].to_pylist()
    gates: list[str] = table["gate"].to_pylist()
    dropped = {row: (ids[row], f"gate_{gate.split('<')[0]}", "", 0.0) for row, gate in enumerate(gates) if gate}
    open_rows = [row for row, gate in enumerate(gates) if not gate]
    texts = table["text"].take(pa.array(open_rows, pa.int64())).to_pylist()
    for row, hit in zip(open_rows, targets.find_all(texts), strict=True):
        if hit:
            dropped[row] = (ids[row], "contaminated", hit.target, float(hit.shared))
    kept = np.ones(table.num_rows, np.bool_)
    kept[list(dropped)] = False
    write_table(target, table.filter(pa.array(kept)))
    return drops(dropped[row] for row in sorted(dropped))
