"""HTML pages as text: LibreOffice help and the Debian reference, each in English and Chinese."""

import html
import re
from collections.abc import Iterator

from nanbeige_core.data.sources.base import PackagedText, Text, debian_members

DROPPED = re.compile(
    r"<(script|style|head|header|footer|aside|nav|dl|table)\b.*?</\1>|<!--.*?-->|<span hidden=.*?</span>"
    r'|<div class="(?:toc|navheader|navfooter|embedded)".*?</div>',
    re.DOTALL,
)
PARAGRAPH = re.compile(r"</?(?:p|h[1-6]|pre|div|ol|ul|table|section|blockquote)\b[^>]*>")
LINE = re.compile(r"<(?:br|li|tr|dt|dd)\b[^>]*>")
TAG = re.compile(r"<[^>]+>")
PREFORMATTED = re.compile(r"<pre\b[^>]*>(.*?)</pre>", re.DOTALL)


def html_to_text(page: str) -> str:
    """Return the readable text of a page: one line per block, blank lines between blocks, code kept as it is."""
    body = DROPPED.sub(" ", page)
    kept: list[str] = []
    position = 0
    for block in PREFORMATTED.finditer(body):
        kept.append(_flow_text(body[position : block.start()]))
        kept.append(html.unescape(TAG.sub("", block.group(1))).strip("\n"))
        position = block.end()
    kept.append(_flow_text(body[position:]))
    return "\n\n".join(part for part in kept if part.strip())


def parse_page(content: bytes) -> Iterator[Text]:
    """Yield one text for a page; raises UnicodeDecodeError on broken UTF-8."""
    yield Text(html_to_text(content.decode("utf-8")))


def _flow_text(fragment: str) -> str:
    marked = LINE.sub("\x01", PARAGRAPH.sub("\x02", re.sub(r"\s+", " ", fragment)))
    text = html.unescape(TAG.sub("", marked)).replace("\xa0", " ")
    blocks = [" \x01".join(block.split("\x01")).strip(" \x01") for block in text.split("\x02")]
    lines = ["\n".join(line.strip() for line in block.split("\x01") if line.strip()) for block in blocks]
    return "\n\n".join(re.sub(r" {2,}", " ", block) for block in lines if block)


def _is_help_page(name: str) -> bool:
    return name.endswith(".html") and "/text/" in name


def _is_chapter(name: str) -> bool:
    return name.startswith("usr/share/debian-reference/ch") and name.endswith(".html")


def _debian_source(name: str, package: str, language: str, category: str, licence: str, holds: str) -> PackagedText:
    keep = _is_help_page if package.startswith("libreoffice") else _is_chapter
    members = debian_members(package, keep)
    return PackagedText(name, category, language, licence, "debian", package, members, parse_page, holds)


_HELP = "office help pages, the same page in both languages"
_REFERENCE = "a system administration book, the same chapters in both languages"
SOURCES = (
    _debian_source("libreoffice-help-zh", "libreoffice-help-zh-cn", "zh", "web", "MPL-2.0", _HELP),
    _debian_source("libreoffice-help-en", "libreoffice-help-en-us", "en", "web", "MPL-2.0", _HELP),
    _debian_source("debian-reference-zh", "debian-reference-zh-cn", "zh", "book", "GPL-2.0-or-later", _REFERENCE),
    _debian_source("debian-reference-en", "debian-reference-en", "en", "book", "GPL-2.0-or-later", _REFERENCE),
)
