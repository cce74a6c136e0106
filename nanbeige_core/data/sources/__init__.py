"""Registry of the sources that ship inside packages; a new family is one module with a `SOURCES` tuple."""

from nanbeige_core.data.sources import docstrings, fortunes, html, manpages, programs
from nanbeige_core.data.sources.base import Member, PackagedText, Text

REGISTRY: dict[str, PackagedText] = {
    source.name: source for family in (html, manpages, fortunes, programs, docstrings) for source in family.SOURCES
}

__all__ = ["REGISTRY", "Member", "PackagedText", "Text"]
