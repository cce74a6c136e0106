"""Tables of the terminal: rows as a table where it fits, in blocks of columns or one under the other where not."""

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_WHOLE_CELLS = 24
"""Columns up to this wide are never wrapped; wider ones hold text, which may be."""

_TEXT_CELLS = 30
"""Text in a narrower column becomes a ladder of words."""

_FRAME = 3
"""Cells of a column beside its content: a line and a space on each side."""


def print_table(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    """Print rows with the columns of all of them, in the width that the console has; nothing for no rows.

    Where columns cannot stand side by side, rows with text are printed one under the other, and rows of numbers as
    several tables with the first column in each.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    texts = {name: [_text(row.get(name, "")) for row in rows] for name in columns}
    needed = {name: _needed(name, texts[name]) for name in columns}
    if not rows or 1 + sum(needed.values()) <= console.width or len(columns) == 1:
        _print_columns(console, rows, columns, texts, title)
    elif any(width > _WHOLE_CELLS + _FRAME for width in needed.values()):
        _print_rows_apart(console, len(rows), texts, needed, title)
    else:
        for number, block in enumerate(_blocks(needed, console.width)):
            _print_columns(console, rows, block, texts, title if number == 0 else "")


def _needed(name: str, texts: list[str]) -> int:
    """Return the cells a column needs to be read: all of a short one, `_TEXT_CELLS` of one with text."""
    lines = [line for text in (name, *texts) for line in text.split("\n")]
    widest = max(cell_len(line) for line in lines)
    return (widest if widest <= _WHOLE_CELLS else max(_TEXT_CELLS, cell_len(name))) + _FRAME


def _print_columns(
    console: Console, rows: list[dict[str, Any]], columns: list[str], texts: dict[str, list[str]], title: str
) -> None:
    if not rows:
        return
    table = Table(title=title or None, title_justify="left")
    for name in columns:
        short = _needed(name, texts[name]) <= _WHOLE_CELLS + _FRAME
        numeric = all(isinstance(row.get(name, 0), int | float) for row in rows)
        table.add_column(
            name, overflow="fold", no_wrap=short and len(columns) > 1, justify="right" if numeric else "left"
        )
    for number in range(len(rows)):
        table.add_row(*(escape(texts[name][number]) for name in columns))
    console.print(table)


def _print_rows_apart(
    console: Console, rows: int, texts: dict[str, list[str]], needed: dict[str, int], title: str
) -> None:
    short = [name for name in texts if needed[name] <= _WHOLE_CELLS + _FRAME]
    if title:
        console.print(escape(title), style="italic")
    for number in range(rows):
        said = [(name, texts[name][number]) for name in short if texts[name][number]]
        head = " · ".join(f"[dim]{escape(name)}[/dim] {escape(value)}" for name, value in said)
        console.print(f"[bold]{number + 1}[/bold]  {head}", highlight=False)
        for name, values in texts.items():
            if name not in short and values[number]:
                label = f"[dim]{escape(name)}[/dim]  " if len(texts) - len(short) > 1 else ""
                console.print(Padding(Text.from_markup(label + escape(values[number]), overflow="fold"), (0, 0, 0, 3)))


def _blocks(needed: dict[str, int], width: int) -> Iterator[list[str]]:
    """Yield as many columns as fit beside the first, which names the rows and comes with each block."""
    first, *rest = needed
    block = [first]
    for name in rest:
        if len(block) > 1 and 1 + sum(needed[one] for one in (*block, name)) > width:
            yield block
            block = [first]
        block.append(name)
    yield block


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
