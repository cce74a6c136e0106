"""Traces as plain values, for `--json` and for tables on a disk."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from nanbeige_core.errors import RecipeError
from nanbeige_core.lineage.forward import Forward
from nanbeige_core.lineage.history import rows_behind
from nanbeige_core.lineage.tables import Row
from nanbeige_core.lineage.trace import ArtifactTrace, RowTrace, Trace
from nanbeige_core.lineage.view import ArtifactView

Plain = dict[str, Any]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("artifact", "what", "id")),
        *((name, pa.int64()) for name in ("times", "first_step", "last_step")),
        ("note", pa.string()),
    ]
)


def plain_trace(found: Trace) -> Plain:
    """Return a trace as JSON values."""
    if found.artifact is not None:
        return {"artifact": _artifact(found.artifact)}
    return {"rows": [_row_trace(one) for one in found.rows]}


def plain_row(row: Row) -> Plain:
    """Return one row as JSON values."""
    return {
        "artifact": row.view.address,
        "row": row.id,
        "what": row.table.what,
        "says": row.says,
        "texts": row.texts(),
    }


def write_rows_behind(view: ArtifactView, file: Path) -> int:
    """Write every row a model was trained on as Parquet or CSV (by the file's ending) and return their number.

    Raises RecipeError for another ending.
    """
    if file.suffix not in (".parquet", ".csv"):
        raise RecipeError(f"{file}: rows are written as .parquet or .csv; name the file so.")
    rows = [{"artifact": address, "what": what, **use._asdict()} for address, what, use in rows_behind(view)]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    if file.suffix == ".csv":
        pa_csv.write_csv(table, file)
    else:
        pq.write_table(table, file, compression="zstd")
    return table.num_rows


def _artifact(found: ArtifactTrace) -> Plain:
    return {
        "address": found.view.address,
        "kind": found.view.manifest.kind.value,
        "adopted": found.view.adopted,
        "made_from": _addresses(found.ancestors),
        "history": [asdict(step) for step in found.history],
        "made_into": _addresses(found.descendants),
    }


def _addresses(views: Iterable[ArtifactView]) -> list[str]:
    return [view.address for view in views]


def _row_trace(found: RowTrace) -> Plain:
    return {
        **plain_row(found.row),
        "drawn_together": list(found.siblings),
        "made_from": [plain_row(row) for row in found.before],
        "written_by": {address: [asdict(step) for step in steps] for address, steps in found.writers.items()},
        "kind_of_problem": found.family,
        "same_kind_trained_on": [asdict(one) for one in found.kin],
        **_forward(found.forward),
    }


def _forward(found: Forward) -> Plain:
    return {
        "became": [
            {
                "artifact": one.artifact,
                "what": one.what,
                "rows": one.rows,
                "mean": one.mean,
                "examples": [plain_row(row) for row in one.examples],
            }
            for one in found.found
        ],
        "trained_on_by": [
            {
                "artifact": one.artifact,
                "what": one.what,
                "uses": [use._asdict() for use in one.uses],
                "missing": one.missing,
            }
            for one in found.trained
        ],
        "carried_by": [asdict(one) for one in found.models],
    }
