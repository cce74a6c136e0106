"""Ledgers: which rows a stage took gradients on, at which steps. Written beside the weights, read by `trace`.

A RowLedger lists the rows of a finite data set. Pretraining reads an endless stream and keeps
`megatron.phase_ledger.PhaseLedger` instead; both answer the same two questions.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from nanbeige_core.data.tables import write_table

pc: Any = compute  # its functions are made at import: a type checker knows none of them

if TYPE_CHECKING:
    from nanbeige_core.lineage.view import ArtifactView

ROW_LEDGER = "ledger.parquet"
ROW_SCHEMA = pa.schema([("id", pa.string()), ("fate", pa.string()), ("steps", pa.list_(pa.int32()))])
TRAINED, LEFT_OUT = "trained", "left out: longer than the window"


class LedgerMissingError(LookupError):
    """The artifact kept no ledger and none can be derived; the message says what to run again."""


class Use(NamedTuple):
    """One row's part in a training stage; steps count from 1 inside the stage."""

    id: str
    times: int
    first_step: int
    last_step: int
    note: str = ""


class Totals(NamedTuple):
    """How much a ledger holds; `groups` are its parts (sets of a mixture) with rows and tokens."""

    rows: int
    left_out: int
    steps: int
    groups: list[dict[str, object]]


class Ledger(Protocol):
    """Answer which rows were trained on."""

    def uses(self, ids: Collection[str]) -> list[Use]:
        """Return what became of these rows; nothing for a row the stage never met."""
        ...

    def everything(self) -> Iterable[Use]:
        """Return every row that was trained on."""
        ...

    def totals(self) -> Totals:
        """Return how many rows were trained on."""
        ...


class RowLedger:
    """The rows of a finite data set with the steps at which each was trained on."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @classmethod
    def read(cls, file: Path) -> "RowLedger":
        """Read a `ledger.parquet`."""
        return cls(pq.read_table(file, schema=ROW_SCHEMA))

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, Sequence[int]]]) -> "RowLedger":
        """Build a ledger from (id, fate, steps)."""
        given = [{"id": key, "fate": fate, "steps": list(steps)} for key, fate, steps in rows]
        return cls(pa.Table.from_pylist(given, schema=ROW_SCHEMA))

    def write(self, file: Path) -> None:
        """Write the ledger, atomically."""
        write_table(file, self.table)

    def uses(self, ids: Collection[str]) -> list[Use]:
        """Return what became of these rows."""
        mask = pc.is_in(self.table["id"], pa.array(list(ids), pa.string()))
        return [_use(row) for row in self.table.filter(mask).to_pylist()]

    def everything(self) -> list[Use]:
        """Return every row that was trained on."""
        return [_use(row) for row in self.table.to_pylist() if row["steps"]]

    def totals(self) -> Totals:
        """Return how many rows were trained on."""
        counts = pc.list_value_length(self.table["steps"])
        trained = int(pc.sum(pc.greater(counts, 0)).as_py() or 0)
        last = pc.max(pc.list_flatten(self.table["steps"])).as_py() or 0
        return Totals(trained, self.table.num_rows - trained, last, [])


def _use(row: dict[str, list[int]]) -> Use:
    steps = row["steps"]
    fate = str(row["fate"])
    note = "" if fate == TRAINED else fate
    return Use(str(row["id"]), len(steps), min(steps, default=0), max(steps, default=0), note)


def row_ledger(view: "ArtifactView", derive: Callable[["ArtifactView"], RowLedger]) -> RowLedger:
    """Open the ledger the artifact holds; one sealed without is derived from its inputs once and kept in the cache."""
    cached = view.cached(ROW_LEDGER)
    for file in (view.path / ROW_LEDGER, cached):
        if file.exists():
            return RowLedger.read(file)
    ledger = derive(view)
    ledger.write(cached)
    return ledger


def packed_ledger(
    kept: Sequence[str], left_out: Sequence[str], bins: Sequence[Sequence[int]], steps: Sequence[Sequence[int]]
) -> RowLedger:
    """Build the ledger of packed training: item `bins[row][i]` was seen at every step that took `row`.

    `kept` are the ids of the packed items, `left_out` those that did not fit; `steps` holds each step's rows.
    """
    steps_of_row: list[list[int]] = [[] for _ in bins]
    for number, rows in enumerate(steps, start=1):
        for row in rows:
            steps_of_row[row].append(number)
    steps_of_item: dict[int, list[int]] = {}
    for row, members in enumerate(bins):
        for item in members:
            steps_of_item[item] = steps_of_row[row]
    trained = [(key, TRAINED, steps_of_item[item]) for item, key in enumerate(kept)]
    return RowLedger.of([*trained, *((key, LEFT_OUT, ()) for key in left_out)])
