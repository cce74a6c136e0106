"""Render pages with jinja2: everything that comes in is escaped, and the page may load nothing from anywhere.

A Content-Security-Policy forbids scripts, frames, forms and every address, so that a text which slipped through
would still be inert. Pictures of ours are marked safe in one place, `as_markup`.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> str:
    """Return a whole self-contained page from a template of this room."""
    return _environment().get_template(f"{template}.html.jinja").render(**values)


@cache
def _environment() -> "Environment":
    # imported here: `plan` and `ls` share this room and must start at once
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nanbeige_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=format_number, picture=as_markup, duration=format_seconds, words=_words)
    return environment


def as_markup(svg: str) -> "Markup":
    """Mark a picture drawn by this room as safe; never used on text that a document or a model wrote."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704


def format_number(value: Any) -> str:
    """Return a table cell: four significant digits, thousands separated; any other value as text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}".replace(",", "\u202f")
    return f"{value:.4g}"


def format_seconds(seconds: float) -> str:
    """Return a time as `48 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _words(name: str) -> str:
    return name.replace("_", " ")
