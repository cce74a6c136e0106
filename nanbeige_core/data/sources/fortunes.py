"""Chinese fortunes: Tang and Song poems with author and title, and short technical notes."""

import re
from collections.abc import Iterator
from pathlib import Path

from nanbeige_core.data.sources.base import Member, PackagedText, Text, debian_members

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FILES = ("chinese", "tang300", "song100")

_files = debian_members("fortunes-zh", lambda name: name.rsplit("/", 1)[-1] in FILES and "fortunes/" in name)


def list_entries(cache: Path) -> list[Member] | None:
    """Return one member per entry of the fortune files, or None where the package cannot be had."""
    files = _files(cache)
    if files is None:
        return None
    return [
        Member(f"{file.key}#{number}", entry)
        for file in files
        for number, entry in enumerate(file.content.split(b"\n%\n"))
    ]


def parse_entry(content: bytes) -> Iterator[Text]:
    """Yield the entry without terminal colours and without its left margin."""
    text = COLOUR.sub("", content.decode("utf-8")).replace("\xa0", " ")
    yield Text("\n".join(line.strip() for line in text.strip().splitlines()))


SOURCES = (
    PackagedText(
        "fortunes-zh",
        "book",
        "zh",
        "GPL-3.0-or-later",
        "debian",
        "fortunes-zh",
        list_entries,
        parse_entry,
        "Tang and Song poems, short technical notes",
    ),
)
