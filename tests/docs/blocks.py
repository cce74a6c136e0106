"""Fenced blocks of the documentation and the comment above each that says how it is tested."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["run", "plan", "check", "write", "apply"]
SHELL = {"bash", "sh", "shell", "console"}
_FENCE = re.compile(
    r"(?:^<!-- test: (?P<marker>.+?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_MARKER = re.compile(r"(?P<mode>run|plan|check|write|apply)\b(?:, exit (?P<exit>\d+))?(?P<rest>.*)")
_COMMANDS = re.compile(r"(nanbeige|make|pip|python|\.venv/bin/\w+) ")
_INLINE = re.compile(r"`(nanbeige [^`]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its text, and how it is tested."""

    page: Path
    line: int
    language: str
    text: str
    mode: Mode | None
    exit_status: int = 0
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def script(self) -> str:
        """Return what a person would type: of a console session only the lines behind the prompt."""
        lines = self.text.splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return "\n".join(lines)


def blocks_of(page: Path) -> list[Block]:
    """Return every block of a page that is shell or carries a marker."""
    text = page.read_text(encoding="utf-8")
    found = [_block(page, text, match) for match in _FENCE.finditer(text)]
    return [block for block in found if block.mode or is_shell(block)]


def inline_commands(page: Path) -> list[str]:
    """Return the `nanbeige ...` commands in a page's prose that are meant to be typed (no placeholders in capitals)."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return [text for text in _INLINE.findall(prose) if not re.search(r"\b[A-Z]{2,}\b|\.\.\.", text)]


def is_shell(block: Block) -> bool:
    """Tell whether a block is a shell block; an untagged one is when its first line is a command."""
    return block.language in SHELL or (not block.language and bool(_COMMANDS.match(block.text)))


def _block(page: Path, text: str, match: re.Match[str]) -> Block:
    line = text.count("\n", 0, match.start("body"))
    marker = _MARKER.fullmatch(match["marker"] or "")
    if match["marker"] and marker is None:
        raise ValueError(f"{page}:{line}: unknown marker {match['marker']!r}; see docs/README.md")
    mode: Mode | None = marker["mode"] if marker else None  # type: ignore[assignment]
    status = int(marker["exit"] or 0) if marker else 0
    argument = marker["rest"].strip() if marker else ""
    return Block(page, line, match["language"], match["body"], mode, status, argument)
