"""`nanbeige reference`: the reference pages of `docs/`, written from the config models and from the commands."""

from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.cli import get_docs_for_click

from flows.console import JsonOption, console, print_json
from flows.exit_codes import ExitCode
from flows.parameters import ROOT

PAGES = ("reference.md", "cli.md")
_CLI_HEADER = """# Commands

Generated from the commands by `nanbeige reference`; do not edit. Shell completion of commands, options, stages,
profiles, sweeps, overrides and artifacts: `nanbeige --install-completion`. Every command takes `--json`: one document
on stdout, the words for people on stderr; a failure prints `{"error": ..., "exit_status": ...}`.

## Exit status

| status | meaning |
| ---: | --- |
"""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def reference(
        write: Annotated[bool, typer.Option("--write", help="Write docs/reference.md and docs/cli.md.")] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Print the reference of all stages, values and commands; --write renews the pages in docs/."""
        pages = render_pages(app)
        if write:
            for name, text in pages.items():
                (ROOT / "docs" / name).write_text(text, encoding="utf-8")
        if as_json:
            print_json({"written": write, "pages": pages})
        elif write:
            console.print(escape(", ".join(str(ROOT / "docs" / name) for name in pages)), highlight=False)
        else:
            print("\n".join(pages.values()))

    assert reference  # registered by its decorator


def render_pages(app: typer.Typer) -> dict[str, str]:
    """Return file name -> text of the generated pages."""
    from nanbeige_core.recipe.reference import reference_markdown

    return dict(zip(PAGES, (reference_markdown(), cli_markdown(app)), strict=True))


def cli_markdown(app: typer.Typer) -> str:
    """Return every command with its arguments and options, from typer's own documentation writer."""
    group: Any = typer.main.get_command(app)
    group.epilog = None  # the table above says it
    context: Any = typer.Context(group, info_name="nanbeige")  # typer's writer names another of its context classes
    with context:
        text = get_docs_for_click(obj=group, ctx=context, name="nanbeige", indent=1)
    rows = "\n".join(f"| {code.value} | {code.meaning} |" for code in ExitCode)
    plain = text.replace("```console\n$ ", "```text\n").rstrip()
    return f"{_CLI_HEADER}{rows}\n\n{plain}\n"
