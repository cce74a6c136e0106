"""What `nanbeige show` says about the inside of a data artifact, in the terminal and as a page."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from flows.console import console, print_rows
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.report.stage_report import html_report
from nanbeige_core.stages import STAGES

_LINE_CHARACTERS = 160


def print_inspection(store: Store, manifest: Manifest, examples: int) -> None:
    """Print counts, histograms, reasons and examples; nothing for an artifact that holds no data."""
    # imported here: NumPy and Arrow would slow the start of every command
    from nanbeige_core.report.inspection.registry import inspect

    for section in inspect(store, manifest, examples=examples):
        console.rule(escape(section.title))
        if section.text:
            console.print(escape(section.text))
        print_rows([{name: _one_line(value) for name, value in row.items()} for row in section.table], "")


def write_inspection(store: Store, manifest: Manifest, examples: int, target: Path) -> None:
    """Write the artifact's page with its inspection; raise RecipeError when the place cannot be written."""
    from nanbeige_core.report.inspection.registry import inspect

    sections = inspect(store, manifest, examples=examples)
    page = html_report(manifest.stage, manifest.outcome, STAGES[manifest.uses], sections)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the page cannot be written to {target}: {error}. Give another place.") from error
    console.print(f"page: {target.absolute()}", highlight=False, soft_wrap=True)


def _one_line(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    line = " ".join(value.split())
    return line if len(line) <= _LINE_CHARACTERS else line[:_LINE_CHARACTERS] + " …"
