"""Per-problem records: what a stage measured of each held-out problem, in a file beside its artifact.

One parquet file per artifact with columns measure, problem, value. Two artifacts that measured the same problems can
be compared problem by problem; a problem of which nothing could be scored has no row.
"""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanbeige_core.errors import ArtifactError
from nanbeige_core.recipe.measures import RECORDS

_SCHEMA = pa.schema([("measure", pa.string()), ("problem", pa.string()), ("value", pa.float64())])


def write_records(directory: Path, measures: Mapping[str, Mapping[str, float]]) -> None:
    """Write problem -> value of every measure; call it on one rank."""
    rows = [
        {"measure": measure, "problem": problem, "value": value}
        for measure, values in measures.items()
        for problem, value in values.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), directory / RECORDS)


def read_records(directory: Path, measure: str) -> dict[str, float]:
    """Return problem -> value of one measure.

    Raises ArtifactError when the artifact holds no records or not this measure.
    """
    path = directory / RECORDS
    if not path.exists():
        raise ArtifactError(
            f"{directory} holds no {RECORDS}: it was made by a version that kept means only, and means cannot be "
            "paired by problem. Make the artifact again with `nanbeige run --only STAGE --force`."
        )
    table = pq.read_table(path)
    known = sorted(set(table["measure"].to_pylist()))
    if measure not in known:
        raise ArtifactError(f"{path} holds no measure {measure!r}; it holds {', '.join(known) or 'none'}")
    return {row["problem"]: row["value"] for row in table.to_pylist() if row["measure"] == measure}
