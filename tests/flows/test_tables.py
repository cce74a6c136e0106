from io import StringIO
from typing import Any

from rich.console import Console

from flows.tables import print_table

SENTENCE = "文件列表. 通常只显示 成员的 名称, 如果使用 v 修饰符 " * 4
EXAMPLES: list[dict[str, Any]] = [
    {"score": 0.673, "source": "libreoffice-help-zh", "category": "book", "gate": "", "text": SENTENCE},
    {"score": 12, "source": "manpages", "category": "web", "gate": "truncation<1", "text": "[b]short[/b]"},
]
HISTOGRAM = [{"label": f"educational_value_{n}", **{str(at): 1000 + 7 * at + n for at in range(12)}} for n in range(3)]


def printed(rows: list[dict[str, Any]], width: int) -> list[str]:
    out = StringIO()
    print_table(Console(file=out, width=width), rows, "title")
    return out.getvalue().splitlines()


def test_texts_that_find_no_room_in_a_table_stand_below_their_row() -> None:
    lines = printed(EXAMPLES, 70)
    assert "1  score 0.673 · source libreoffice-help-zh · category book" in [line.strip() for line in lines]
    assert "   [b]short[/b]" in [line.rstrip() for line in lines]
    assert "".join(SENTENCE.split()) in "".join("".join(lines).split()), "no letter is lost at the end of a line"


def test_numbers_that_find_no_room_are_printed_as_several_tables() -> None:
    lines = printed(HISTOGRAM, 80)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert all(str(value) in text for row in HISTOGRAM for value in row.values())
    assert sum("educational_value_1" in line for line in lines) == 2, "each table names its rows"


def test_what_fits_is_one_table_with_numbers_to_the_right() -> None:
    lines = printed(EXAMPLES, 160)
    assert sum(line.startswith("┏") for line in lines) == 1
    assert next(line for line in lines if "manpages" in line).startswith("│    12 │")
