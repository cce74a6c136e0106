"""`trace`: find what a person points at, and say where it comes from and where it went."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import ArtifactError
from nanbeige_core.lineage.backward import roots_of, rows_before
from nanbeige_core.lineage.forward import Forward, follow
from nanbeige_core.lineage.history import ModelStep, model_history
from nanbeige_core.lineage.tables import Row, rows_at, rows_where, rows_with_text
from nanbeige_core.lineage.view import ArtifactView, Lineage

TEXT_HITS = 20
"""Rows a piece of text may name before the search stops."""
FAMILY = "source"
"""Column of the problem set that tells what kind of problem a row is."""


@dataclass(frozen=True)
class Kin:
    """Training rows of the same kind of problem as a traced row."""

    artifact: str
    what: str
    rows: int


@dataclass(frozen=True)
class RowTrace:
    """One row: what it was made from, who wrote it, and what became of it."""

    row: Row
    siblings: tuple[float, ...]
    """Values of the rows drawn together with this one (a rollout's group), itself among them."""
    before: tuple[Row, ...]
    writers: dict[str, list[ModelStep]]
    family: str
    kin: tuple[Kin, ...]
    forward: Forward


@dataclass(frozen=True)
class ArtifactTrace:
    """One artifact: what it was made from, the rows behind its weights, and what was made from it."""

    view: ArtifactView
    ancestors: tuple[ArtifactView, ...]
    history: tuple[ModelStep, ...]
    descendants: tuple[ArtifactView, ...]


@dataclass(frozen=True)
class Trace:
    """The answer: an artifact, or one or more rows."""

    artifact: ArtifactTrace | None = None
    rows: tuple[RowTrace, ...] = field(default=())


def trace(store: Store, target: str, *, limit: int = 3) -> Trace:
    """Trace an artifact (`rl_stem`, `rl_stem/f26b`), a row of one (`rl_stem#12/<prompt>/0`), or any row id.

    An id that several rows of one artifact share shows the first `limit`. Raises ArtifactError when nothing matches.
    """
    lineage = Lineage(store)
    address, mark, key = target.partition("#")
    if mark:
        view = lineage.of(store.resolve(address))
        rows = rows_at(view, key)
        if not rows:
            raise ArtifactError(f"{view.address} has no row {key!r}; {_how_rows_are_named(view)}")
        return Trace(rows=tuple(_trace_row(row) for row in rows[:limit]))
    try:
        view = lineage.of(store.resolve(target))
    except ArtifactError:
        return Trace(rows=tuple(_trace_row(row) for row in _find_id(lineage, target)[:limit]))
    return Trace(artifact=_trace_artifact(view))


def find_text(store: Store, piece: str, *, limit: int = TEXT_HITS) -> list[Row]:
    """Return the rows that hold a piece of text, each id at the artifact where it first appears.

    The one question that reads the text columns themselves. Raises ArtifactError when no row holds it.
    """
    found: dict[str, Row] = {}
    for view in Lineage(store).ordered:
        for row in rows_with_text(view, piece, limit=limit):
            found.setdefault(row.id, row)
        if len(found) >= limit:
            break
    if not found:
        raise ArtifactError(
            f"no row in {store.url} holds the text {piece!r}. Capital letters and spaces count; texts are searched "
            "as they were stored, and rollouts, which are kept as token ids, are not."
        )
    return list(found.values())[:limit]


def _find_id(lineage: Lineage, key: str) -> list[Row]:
    rows: list[Row] = []
    for view in lineage.ordered:
        for table in view.tables:
            if len(table.key) == 1:
                # an id that a corpus holds twice is one row here: nothing tells the two apart
                rows += rows_where(view, table, table.key[0], [key], limit=1)
    if not rows:
        raise ArtifactError(
            f"nothing in {lineage.store.url} is called {key!r}: it is no stage, no address, no fingerprint prefix and "
            "no row id. `nanbeige ls` lists the artifacts, `nanbeige trace --text PIECE` finds rows by their text, and "
            "a rollout is written as rl_stem#STEP/PROMPT/NUMBER."
        )
    return roots_of(rows)


def _how_rows_are_named(view: ArtifactView) -> str:
    named = [f"{table.what}: {'/'.join(table.key)}" for table in view.tables]
    return f"its rows are named by {', or '.join(named)}." if named else "this kind of artifact keeps no rows."


def _trace_row(row: Row) -> RowTrace:
    before = rows_before(row)
    writers = {writer.address: model_history(writer) for writer in row.writers()}
    problem = next((one for one in [row, *before] if one.table.what == "problem"), None)
    family = str(problem.values.get(FAMILY, "")) if problem is not None else ""
    kin = tuple(_kin(row, problem, family)) if problem is not None and row.table.written_by else ()
    forward = follow(row.view, {row.id}) if len(row.table.key) == 1 else Forward()
    return RowTrace(row, tuple(_siblings(row)), tuple(before), writers, family, kin, forward)


def _siblings(row: Row) -> list[float]:
    together = row.table.key[:-1]
    if not together:
        return []
    rows = rows_where(row.view, row.table, row.table.subject, [str(row.values[row.table.subject])])
    same = [one for one in rows if all(one.values[name] == row.values[name] for name in together)]
    return [score for score in (one.score for one in same) if score is not None]


def _kin(row: Row, problem: Row, family: str) -> Iterator[Kin]:
    """Yield how many rows of the same kind of problem each stage behind the row's writers was trained on."""
    same = rows_where(problem.view, problem.table, FAMILY, [family])
    lineage = row.view.lineage
    behind: dict[str, ArtifactView] = {problem.view.address: problem.view}
    for writer in row.writers():
        behind |= {one.address: one for one in [*lineage.ancestors(writer), writer]}
    forward = follow(problem.view, {one.id for one in same}, within=behind.values(), models=False)
    for trained in forward.trained:
        used = sum(use.times > 0 for use in trained.uses)
        if used:
            yield Kin(trained.artifact, trained.what, used)


def _trace_artifact(view: ArtifactView) -> ArtifactTrace:
    lineage = view.lineage
    history = model_history(view) if view.holds_weights else []
    return ArtifactTrace(view, tuple(lineage.ancestors(view)), tuple(history), tuple(lineage.descendants(view)))
