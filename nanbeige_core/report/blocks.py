"""The building blocks of every page: what a chapter is made of, and a stage's sections as such blocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nanbeige_core.contract import Gain, Section
from nanbeige_core.report.drawing import draw_svg

Row = Mapping[str, Any]

_SAMPLE_COLUMNS = frozenset(
    {"prompt", "response", "before", "after", "chosen", "rejected", "user", "assistant", "answer", "reasoning",
     "supervised text", "text", "removed", "kept", "drafts"}
)  # fmt: skip
_LONG_TEXT = 48
_NARROW_COLUMNS = 7
_HALF_PAGE = 76
"""Characters that stand side by side in half a page, with two between the columns."""
_WRAPPED = 24
"""A longer text in a cell is wrapped."""
_GOOD = frozenset({"correct", "kept", "value", "HIT", "ran", "reused"})
_BAD = frozenset({"wrong", "dropped", "failed"})


@dataclass(frozen=True)
class Chip:
    """A short fact beside a text, coloured by tone: good, bad or empty."""

    label: str
    value: Any
    tone: str = ""


@dataclass(frozen=True)
class Card:
    """One sample: its texts by name, short facts about the whole, and a verdict on single texts by their name."""

    texts: dict[str, str]
    chips: list[Chip] = field(default_factory=list)
    verdicts: dict[str, Chip] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """One part of a page: a heading and any of prose, picture (an `<svg>` of ours), table, sample cards, markup."""

    title: str
    text: str = ""
    svg: str = ""
    table: list[Row] = field(default_factory=list)
    cards: list[Card] = field(default_factory=list)
    folded: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Chapter:
    """A titled part of a page with its blocks."""

    id: str
    title: str
    intro: str = ""
    blocks: list[Block] = field(default_factory=list)


def section_block(section: Section, *, folded: bool = False) -> Block:
    """Return a stage's section as a block: rows that hold texts become sample cards."""
    svg = draw_svg(section.plot) if section.plot is not None else ""
    samples = holds_samples(section)
    return Block(
        title=section.title,
        text=section.text,
        svg=svg,
        table=[] if samples else list(section.table),
        cards=[as_card(row) for row in section.table] if samples else [],
        folded=folded,
        wide=samples or _is_wide(section.table),
    )


def _is_wide(rows: Sequence[Row]) -> bool:
    widths: dict[str, int] = {}
    for row in rows:
        for column, value in row.items():
            widths[column] = max(widths.get(column, len(column)), min(_WRAPPED, len(str(value))))
    return len(widths) > _NARROW_COLUMNS or sum(width + 2 for width in widths.values()) > _HALF_PAGE


def holds_samples(section: Section) -> bool:
    """Tell whether the rows of a section hold texts to be read, not figures to be compared."""
    return any(
        column in _SAMPLE_COLUMNS and isinstance(value, str) and (len(value) > _LONG_TEXT or "\n" in value)
        for row in section.table
        for column, value in row.items()
    )


def as_card(row: Row) -> Card:
    """Split a row into texts and short facts."""
    texts: dict[str, str] = {}
    chips: list[Chip] = []
    for column, value in row.items():
        if isinstance(value, str) and (column in _SAMPLE_COLUMNS or len(value) > _LONG_TEXT):
            texts[column] = value
        elif value not in ("", None):
            chips.append(Chip(column, value, tone_of(value)))
    verdicts = {name: chip for chip in chips if (name := chip.label.partition(" ")[2]) in texts}
    return Card(texts, [chip for chip in chips if chip not in verdicts.values()], verdicts)


def tone_of(value: Any) -> str:
    """Return the colour class of a verdict or status."""
    return "good" if value in _GOOD else "bad" if value in _BAD else ""


def verdict_of(gain: Gain) -> str:
    """Return better, worse or unclear: what the interval of a gain allows one to say."""
    if gain.low is None or gain.high is None:
        return "unclear"
    if gain.low <= 0 <= gain.high:
        return "unclear"
    return "better" if (gain.low > 0) == gain.higher_is_better else "worse"
