"""Two artifacts side by side: what was different about them, what came of it, and whether the difference is real."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.evals.statistics import paired_difference
from nanbeige_core.lineage.backward import rows_before
from nanbeige_core.lineage.declare import PER_PROBLEM, RowTable
from nanbeige_core.lineage.tables import Row, every_row, rows_where
from nanbeige_core.lineage.view import ArtifactView, Lineage

ABSENT = "absent"
_PAIRS_LOOKED_AT = 200
"""Problems among which samples with different texts are looked for."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Field:
    """One value that differs; `absent` where only the other side has it."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Number:
    """One reported number of both sides; `difference` is b - a."""

    name: str
    a: float | None
    b: float | None
    difference: float | None


@dataclass(frozen=True)
class Paired:
    """The mean of both sides over the problems they share, with the 95 % interval of the paired difference b - a."""

    of: str
    group: str
    problems: int
    a: float
    b: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Return what the interval allows to say."""
        if self.low == self.high:
            return "the same on every problem" if self.difference == 0 else "one difference everywhere: no interval"
        if self.low <= 0 <= self.high:
            return "not told apart"
        return "b is higher" if self.difference > 0 else "b is lower"


@dataclass(frozen=True)
class SamplePair:
    """What both sides wrote to the same prompt."""

    subject: str
    group: str
    prompt: str
    a: str
    b: str
    a_says: str
    b_says: str


@dataclass(frozen=True)
class Diff:
    """Everything that `diff` shows."""

    a: str
    b: str
    config: tuple[Field, ...]
    inputs: tuple[Field, ...]
    numbers: tuple[Number, ...]
    paired: tuple[Paired, ...]
    samples: tuple[SamplePair, ...]


def diff(store: Store, first: str, second: str, *, samples: int = 3) -> Diff:
    """Compare two artifacts; per-problem records, where both keep them, are paired by problem.

    Raises ArtifactError when one of them does not exist.
    """
    lineage = Lineage(store)
    a, b = (lineage.of(store.resolve(text)) for text in (first, second))
    tables = [(table, other) for table in a.tables for other in b.tables if _comparable(table, other)]
    # what was measured on held-out problems says more than what was seen on the way
    measured = [pair for pair in tables if pair[0] is PER_PROBLEM] or [pair for pair in tables if pair[0].score]
    return Diff(
        a.address,
        b.address,
        tuple(_fields(_identity(a.manifest), _identity(b.manifest))),
        tuple(_fields(_inputs(a.manifest), _inputs(b.manifest))),
        tuple(_numbers(_reported(a.manifest), _reported(b.manifest))),
        tuple(line for table, other in measured for line in _paired(a, b, table, other)),
        tuple(line for table, other in tables for line in _samples(a, b, table, other, samples)),
    )


def _comparable(table: RowTable, other: RowTable) -> bool:
    return table.what == other.what and bool(table.subject) and table.subject == other.subject


def _identity(manifest: Manifest) -> dict[str, Any]:
    values = {name: manifest.identity[name] for name in ("version", "adopted") if name in manifest.identity}
    return dict(_flatten({**values, **manifest.identity["config"]}))


def _inputs(manifest: Manifest) -> dict[str, Any]:
    return {name: reference.address for name, reference in manifest.inputs.items()}


def _reported(manifest: Manifest) -> dict[str, float]:
    outcome = manifest.outcome
    gain = outcome.gain
    measured = {"gain.before": gain.before, "gain.after": gain.after, "gain": gain.after - gain.before} if gain else {}
    spent = {"tokens": float(outcome.tokens), "seconds": manifest.seconds}
    return {**measured, **outcome.metrics, **{name: float(n) for name, n in outcome.counts.items()}, **spent}


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{prefix}[{index}]")
    else:
        yield prefix, value


def _fields(a: dict[str, Any], b: dict[str, Any]) -> Iterator[Field]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name, ABSENT) != b.get(name, ABSENT):
            yield Field(name, a.get(name, ABSENT), b.get(name, ABSENT))


def _numbers(a: dict[str, float], b: dict[str, float]) -> Iterator[Number]:
    for name in dict.fromkeys([*a, *b]):
        left, right = a.get(name), b.get(name)
        yield Number(name, left, right, right - left if left is not None and right is not None else None)


def _paired(a: ArtifactView, b: ArtifactView, table: RowTable, other: RowTable) -> Iterator[Paired]:
    left, right = _means(a, table), _means(b, other)
    for group in [group for group in left if group in right]:
        shared = [subject for subject in left[group] if subject in right[group]]
        if not shared:
            continue
        before, after = ([side[group][subject] for subject in shared] for side in (left, right))
        interval = paired_difference(before, after)
        means = (sum(before) / len(shared), sum(after) / len(shared))
        yield Paired(table.what, _name(group), len(shared), *means, interval.mean, interval.low, interval.high)


def _means(view: ArtifactView, table: RowTable) -> dict[Group, dict[str, float]]:
    """Return the mean value of each subject in each group; rows of one subject are not independent."""
    values: dict[Group, dict[str, list[float]]] = {}
    columns = {*table.key, *table.groups, table.subject, table.score, "scored"}
    for row in every_row(view, table, columns):
        score = row.score
        if score is not None:
            group = tuple(str(row.values[name]) for name in table.groups)
            values.setdefault(group, {}).setdefault(str(row.values[table.subject]), []).append(score)
    return {
        group: {subject: sum(scores) / len(scores) for subject, scores in subjects.items()}
        for group, subjects in values.items()
    }


def _samples(a: ArtifactView, b: ArtifactView, table: RowTable, other: RowTable, count: int) -> Iterator[SamplePair]:
    """Yield pairs of texts to the same prompt, those that differ first, spread over the shared subjects."""
    if count < 1 or not table.written_by or not (table.text or table.tokens):
        return
    names = {table.subject, *table.key, *table.groups}
    left = {str(row.values[table.subject]) for row in every_row(a, table, names)}
    shared = [s for s in dict.fromkeys(str(r.values[table.subject]) for r in every_row(b, other, names)) if s in left]
    step = max(1, len(shared) // _PAIRS_LOOKED_AT)
    looked_at = shared[::step]
    rows_a, rows_b = (_first_rows(view, one, looked_at) for view, one in ((a, table), (b, other)))
    pairs = [(key, rows_a[key], rows_b[key]) for key in rows_a if key in rows_b]
    pairs.sort(key=lambda pair: pair[1].texts() == pair[2].texts())
    stride = max(1, sum(one.texts() != two.texts() for _, one, two in pairs) // count)
    for (subject, group), one, two in pairs[::stride][:count]:
        prompt = next((row.texts().get("prompt", "") for row in rows_before(one) if row.table.what == "problem"), "")
        yield SamplePair(subject, _name(group), prompt, _written(one), _written(two), one.says, two.says)


def _first_rows(view: ArtifactView, table: RowTable, subjects: list[str]) -> dict[tuple[str, Group], Row]:
    found: dict[tuple[str, Group], Row] = {}
    for row in rows_where(view, table, table.subject, subjects):
        group = tuple(str(row.values[name]) for name in table.groups)
        found.setdefault((str(row.values[table.subject]), group), row)
    return found


def _written(row: Row) -> str:
    return "\n".join(text for name, text in row.texts().items() if name != "prompt")


def _name(group: Group) -> str:
    return " / ".join(group)
