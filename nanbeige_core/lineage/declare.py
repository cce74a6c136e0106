"""How a stage declares its rows: which tables hold them, what they refer to upstream, and which became weights.

Every room says this of its own stages, as data, in its `rows.py`; the walk over it is written once (`walk.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class RowTable:
    """One table of an artifact whose rows can be asked for by id."""

    what: str
    """What one row is, in one word: document, problem, sample, pair, rollout."""
    file: str
    """Glob relative to the artifact, or `name.json:key` for a list inside a JSON file (`name.json:` is the list)."""
    key: tuple[str, ...]
    """Columns that name a row; joined by a slash they are its address inside the artifact."""
    refers: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Column -> inputs in which a row with this id lies."""
    says: str = ""
    """What a row tells, as a format string over its columns."""
    columns: tuple[str, ...] = ()
    """Columns that `says` needs besides the key."""
    text: tuple[str, ...] = ()
    """Columns of text that a person may search in or wants to read."""
    tokens: str = ""
    """Column of token ids to decode with the input `tokenizer`, where no text is stored."""
    written_by: tuple[str, ...] = ()
    """Inputs whose model wrote the row; `{column}` stands for the input that a column names."""
    score: str = ""
    """Column with the row's value; many rows are summed up by its mean, two artifacts compared by it."""
    values: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """What the words of a `score` column count as; None leaves a row out."""
    subject: str = ""
    """Column with what the row is about (the problem): rows of one subject are one unit of a comparison."""
    groups: tuple[str, ...] = ()
    """Columns whose values are compared apart, such as the checkpoint and suite of an evaluation."""


PER_PROBLEM = RowTable(
    "measured problem",
    "per_problem.parquet",
    ("measure", "problem"),
    {"problem": ("problems",)},
    says="{measure}: {value:.3f}",
    columns=("value",),
    score="value",
    subject="problem",
    groups=("measure",),
)
"""What any stage may keep of each problem it was measured on, in one form; the unit of a paired comparison."""


@dataclass(frozen=True)
class Trained:
    """Rows of one input that a stage took gradients on."""

    input: str
    ledger: str
    """`module:function` below nanbeige_core; the function opens the stage's Ledger from an ArtifactView."""
    what: str
    """What one row is, in the plural."""


@dataclass(frozen=True)
class StageRows:
    """Everything a stage declares about its rows."""

    tables: tuple[RowTable, ...] = ()
    trained: tuple[Trained, ...] = ()
    starts_from: str = ""
    """The input whose weights the stage goes on from."""
    keeps: str = ""
    """The input whose weights are handed on unchanged."""
    inherits: tuple[str, ...] = ()
    """Inputs that shaped the result without any row to point at (a teacher's distributions)."""
