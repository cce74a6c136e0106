"""What a packaged source is: data about it, how to list its raw members, how to parse one into text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanbeige_core.data.fetch import fetch_debian, read_debian


@dataclass(frozen=True)
class Member:
    """One raw unit of a source: a page, an entry, a module. `content` is bytes as stored."""

    key: str
    content: bytes


@dataclass(frozen=True)
class Text:
    """One parsed text with the part of its provenance that only the parser knows."""

    text: str
    part: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PackagedText:
    """A registered source. `list_members` returns None when this machine cannot get the package."""

    name: str
    category: str
    language: str
    licence: str
    needs: Literal["stdlib", "pypi", "debian"]
    package: str
    list_members: Callable[[Path], list[Member] | None]
    parse: Callable[[bytes], Iterator[Text]]
    holds: str


def debian_members(package: str, keep: Callable[[str], bool]) -> Callable[[Path], list[Member] | None]:
    """Return a lister of the files of a Debian package that `keep` accepts by name."""

    def list_members(cache: Path) -> list[Member] | None:
        path = fetch_debian(package, cache)
        if path is None:
            return None
        return [Member(name, content) for name, content in read_debian(path) if keep(name)]

    return list_members
