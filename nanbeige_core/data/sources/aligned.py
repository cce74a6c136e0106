"""Pages that exist in two languages: what a bilingual embedding learns from, and is tested on."""

from pathlib import Path
from typing import NamedTuple

from nanbeige_core.data.fetch import FetchError
from nanbeige_core.data.language import cjk_ratio
from nanbeige_core.data.sources.base import PackagedText
from nanbeige_core.data.sources.html import SOURCES
from nanbeige_core.data.tables import read_rows

PACKAGED = "libreoffice-help"
"""About two thousand translated pages with the same name in an English and a Chinese package."""

SHORTEST = 200
"""Characters below which a page says too little to be found by."""

TRANSLATED = 0.3
"""Share of Chinese characters from which a page of the Chinese package counts as translated."""


class AlignedPage(NamedTuple):
    """One page in two languages."""

    key: str
    first: str
    second: str


def read_aligned(name: str, cache: Path) -> list[AlignedPage]:
    """Return aligned pages in order of their keys: the packaged ones, or the rows of a Parquet table.

    A table has the columns key, first and second. Raises FetchError when the packages cannot be had, and TableError
    for a table that lacks a column.
    """
    if name != PACKAGED:
        rows = read_rows(Path(name), ("key", "first", "second"))
        return sorted(AlignedPage(row["key"], row["first"], row["second"]) for row in rows)
    by_name = {source.name: source for source in SOURCES}
    english, chinese = (_pages(by_name[f"{PACKAGED}-{language}"], cache) for language in ("en", "zh"))
    return [
        AlignedPage(key, english[key], chinese[key])
        for key in sorted(english.keys() & chinese.keys())
        if cjk_ratio(chinese[key]) >= TRANSLATED
    ]


def _pages(source: PackagedText, cache: Path) -> dict[str, str]:
    members = source.list_members(cache)
    if members is None:
        raise FetchError(
            f"source {source.name}: this machine cannot get Debian package {source.package}, whose pages are aligned. "
            "Name a Parquet table with the columns key, first and second as `aligned`."
        )
    pages = {member.key.partition("/text/")[2]: _only_text(source, member.content) for member in members}
    return {key: text for key, text in pages.items() if len(text) >= SHORTEST}


def _only_text(source: PackagedText, content: bytes) -> str:
    try:
        return "\n\n".join(found.text for found in source.parse(content))
    except UnicodeDecodeError:
        return ""
