"""Follow rows forward: into every table that refers to them, every ledger that trained on them, every model after."""

from collections.abc import Collection
from dataclasses import dataclass, field

from nanbeige_core.lineage.history import models_behind, writers_of
from nanbeige_core.lineage.ledger import LedgerMissingError, Use
from nanbeige_core.lineage.tables import Row, rows_where
from nanbeige_core.lineage.view import ArtifactView, Key

EXAMPLES = 3
"""Rows of one table that are shown one by one; more are summed up."""


@dataclass(frozen=True)
class Found:
    """Rows of one table that come from the traced one."""

    artifact: str
    what: str
    rows: int
    mean: float | None
    examples: tuple[Row, ...]


@dataclass(frozen=True)
class Trained:
    """What a stage did with the traced rows; no uses: they were there, but no step drew them."""

    artifact: str
    what: str
    uses: tuple[Use, ...] = ()
    missing: str = ""


@dataclass(frozen=True)
class Model:
    """A model that carries something of the traced rows, and how it got it."""

    artifact: str
    how: str
    direct: bool


@dataclass
class Forward:
    """Everything downstream of some rows, in the order in which it was made."""

    found: list[Found] = field(default_factory=list[Found])
    trained: list[Trained] = field(default_factory=list[Trained])
    models: list[Model] = field(default_factory=list[Model])


def follow(
    root: ArtifactView, ids: Collection[str], *, within: Collection[ArtifactView] | None = None, models: bool = True
) -> Forward:
    """Follow rows of `root` through the store, or through the artifacts `within` alone."""
    result = Forward()
    reached: dict[Key, set[str]] = {root.key: set(ids)}
    trained: set[Key] = set()
    chosen = None if within is None else {one.key for one in within}
    for view in root.lineage.ordered:
        if chosen is not None and view.key not in chosen:
            continue
        _follow_tables(view, reached, result)
        if _follow_ledgers(view, reached, result):
            trained.add(view.key)
    if models:
        result.models = _carriers(root, trained)
    return result


def _follow_tables(view: ArtifactView, reached: dict[Key, set[str]], result: Forward) -> None:
    for table in view.tables:
        rows: list[Row] = []
        for column, names in table.refers.items():
            wanted = {one for name in names for one in _ids_of(view, name, reached)}
            rows += rows_where(view, table, column, wanted) if wanted else []
        if not rows:
            continue
        scores = [row.score for row in rows if row.score is not None]
        mean = sum(scores) / len(scores) if scores else None
        result.found.append(Found(view.address, table.what, len(rows), mean, tuple(rows[:EXAMPLES])))
        if len(table.key) == 1:
            reached.setdefault(view.key, set()).update(row.id for row in rows)


def _follow_ledgers(view: ArtifactView, reached: dict[Key, set[str]], result: Forward) -> bool:
    """Return whether the stage took a gradient on one of the rows."""
    used = False
    for declared in view.trained:
        wanted = _ids_of(view, declared.input, reached)
        if not wanted:
            continue
        try:
            uses = view.open_ledger(declared).uses(wanted)
        except LedgerMissingError as error:
            result.trained.append(Trained(view.address, declared.what, missing=str(error)))
            continue
        result.trained.append(Trained(view.address, declared.what, tuple(uses)))
        used = used or any(use.times for use in uses)
    return used


def _ids_of(view: ArtifactView, name: str, reached: dict[Key, set[str]]) -> set[str]:
    upstream = view.input(name)
    return reached.get(upstream.key, set()) if upstream is not None else set()


def _carriers(root: ArtifactView, trained: set[Key]) -> list[Model]:
    """Return the models trained on the rows, those that go on from them, and those taught by either."""
    carriers: dict[Key, Model] = {}
    for view in root.lineage.ordered:
        if not view.holds_weights:
            continue
        before = view.model_before()
        past = carriers.get(before.key) if before else None
        if view.key in trained:
            carriers[view.key] = Model(view.address, "was trained on it", True)
        elif past is not None and before is not None and past.direct:
            carriers[view.key] = Model(view.address, f"goes on from {before.address}", True)
        else:
            how = (
                f"goes on from {before.address}" if past is not None and before is not None else _taught(view, carriers)
            )
            if how:
                carriers[view.key] = Model(view.address, how, False)
    return list(carriers.values())


def _taught(view: ArtifactView, carriers: dict[Key, Model]) -> str:
    for declared in view.trained:
        data = view.input(declared.input)
        for writer in writers_of(data) if data is not None else []:
            if data is not None and writer.key in carriers:
                return f"learnt from {data.address}, written by {writer.address}"
    for teacher in models_behind(view):
        if teacher.key in carriers:
            return f"was taught by {teacher.address}"
    return ""
