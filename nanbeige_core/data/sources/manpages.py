"""Chinese manual pages: roff source as text."""

import gzip
import re
from collections.abc import Iterator

from nanbeige_core.data.sources.base import PackagedText, Text, debian_members

ESCAPES = {
    r"\-": "-", r"\(aq": "'", r"\(dq": '"', r"\(co": "(c)", r"\(bu": "*", r"\e": "\\", r"\(lq": '"', r"\(rq": '"',
    r"\(en": "-", r"\(em": "--", r"\ ": " ", r"\~": " ", r"\(->": "->", r"\(cq": "'", r"\(oq": "'", r"\(mu": "x",
}  # fmt: skip
ESCAPE = re.compile("|".join(re.escape(key) for key in sorted(ESCAPES, key=len, reverse=True)))
FONT = re.compile(
    r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d+|\\[,/&|^%:c]|\\\*\(..|\\\*\[[^\]]*\]|\\m\[[^\]]*\]|\\[ud](?:\[\d+\])?|\\[hvLlwzo]'[^']*'|\\n\(?\S{1,3}"
)
DEFINITION = re.compile(r"^[.'](?:de1?|ig|am)\b.*?^\.\.\s*?$", re.DOTALL | re.MULTILINE)
"""Macro definitions and ignored blocks: programs of the page, not its text."""

HEADINGS = (".SH", ".SS", ".Sh", ".Ss")
BREAKS = (".PP", ".P", ".LP", ".TP", ".IP", ".HP", ".sp", ".Pp", ".TQ", ".It", ".RS", ".RE")
INLINE = (".B", ".I", ".BR", ".RB", ".IR", ".RI", ".BI", ".IB", ".SM", ".SB", ".Nm", ".Fl", ".Ar", ".Xr", ".Nd")


def roff_to_text(source: str) -> str:
    """Return the readable text of a manual page: headings on their own line, a blank line between paragraphs."""
    lines: list[str] = []
    for raw in DEFINITION.sub("", source).splitlines():
        line = _convert_line(raw)
        if line is not None:
            lines.append(line)
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    return text.strip()


def parse_manual(content: bytes) -> Iterator[Text]:
    """Yield one text for a gzipped manual page."""
    source = gzip.decompress(content).decode("utf-8")
    if not source.lstrip().startswith(".so "):
        yield Text(roff_to_text(source))


def _convert_line(raw: str) -> str | None:
    if not raw.strip():
        return ""
    if raw[0] not in ".'":
        return _plain(raw)
    macro, _, rest = raw.partition(" ")
    if macro in HEADINGS:
        return f"\n{_plain(rest).strip(chr(34))}\n"
    if macro in BREAKS:
        tag = _plain(rest).split('"')[1] if macro in (".IP", ".It") and rest.count('"') >= 2 else ""
        return f"\n{tag}" if tag.strip() else ""
    if macro in INLINE:
        return _plain(rest).replace('"', "")
    return None


def _plain(text: str) -> str:
    return ESCAPE.sub(lambda match: ESCAPES[match.group()], FONT.sub("", text)).rstrip()


def _is_simplified(name: str) -> bool:
    return name.startswith("usr/share/man/zh_CN/") and name.endswith(".gz")


SOURCES = (
    PackagedText(
        "manpages-zh",
        "book",
        "zh",
        "GFDL-1.2-or-later",
        "debian",
        "manpages-zh",
        debian_members("manpages-zh", _is_simplified),
        parse_manual,
        "manual pages in simplified Chinese",
    ),
)
