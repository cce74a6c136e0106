"""`nanbeige verify`: is every artifact as its manifest says."""

from typing import Annotated

import typer

from flows.completion import complete_artifact
from flows.console import JsonOption, StoreOption, console, open_store, print_json, words_aside
from flows.exit_codes import ExitCode


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    artifact: Annotated[
        str, typer.Argument(help="Only this artifact; all when left out.", autocompletion=complete_artifact)
    ] = "",
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file again, too.")] = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Check that every file of every artifact is there with its recorded size; with --deep, with its recorded hash."""
    opened = open_store(store)
    manifests = [opened.resolve(artifact)] if artifact else opened.manifests()
    damaged: dict[str, str] = {} if artifact else opened.unreadable()
    for manifest in manifests:
        problem = opened.look(manifest.stage, manifest.fingerprint).problem
        if not problem and deep and (files := opened.verify(manifest)):
            problem = f"not as recorded: {', '.join(files)}"
        if problem:
            damaged[manifest.reference.address] = problem
    total = len({manifest.reference.address for manifest in manifests} | set(damaged))
    with words_aside(as_json):
        for address, problem in damaged.items():
            console.print(f"[red]{address}[/red]: {problem}")
        how = "names, sizes and hashes" if deep else "names and sizes; --deep hashes every file"
        console.print(f"{total - len(damaged)} of {total} artifacts are as recorded ({how})")
        if damaged:
            console.print("`nanbeige run --only STAGE` makes a damaged artifact again.")
    if as_json:
        print_json({"checked": total, "deep": deep, "damaged": damaged})
    if damaged:
        raise typer.Exit(ExitCode.FAILED)
