"""What stays in the store and what goes: `pin`, `unpin`, `alias`, `pins`, `gc`."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from flows.console import (
    ArtifactArgument,
    FileOption,
    JsonOption,
    StoreOption,
    console,
    open_store,
    print_json,
    print_rows,
    words_aside,
)
from flows.exit_codes import ExitCode
from flows.parameters import RECIPE_FILE
from nanbeige_core.artifacts import garbage, pins
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.wanted import wanted_addresses

_HOUR = 3600.0
_MEGABYTE = 1e6


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (pin, unpin, alias, gc):
        app.command()(command)
    app.command("pins")(list_pins)


def pin(
    artifact: ArtifactArgument,
    note: Annotated[str, typer.Option("--note", help="Why it is kept.")] = "",
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Keep an artifact and all it was made from: `gc` never deletes them."""
    opened = open_store(store)
    made = pins.pin(opened, opened.resolve(artifact), note)
    _say(as_json, f"pinned {made.address}", made.model_dump())


def unpin(artifact: ArtifactArgument, store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """Remove a pin; the artifact stays until `gc` finds nothing else that needs it."""
    opened = open_store(store)
    manifest = opened.resolve(artifact)
    pins.unpin(opened, manifest)
    _say(as_json, f"unpinned {manifest.reference.address}", {"unpinned": manifest.reference.address})


def alias(
    name: Annotated[str, typer.Argument(help="The alias, for example best-dpd; used as @best-dpd.")],
    artifact: Annotated[str, typer.Argument(help="What it stands for; not with --remove.")] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias; the artifact stays.")] = False,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Give an artifact a name that every command takes as @NAME; what has a name is kept by `gc`."""
    opened = open_store(store)
    if remove == bool(artifact):
        raise RecipeError("`nanbeige alias NAME ARTIFACT` sets an alias, `nanbeige alias NAME --remove` removes it")
    if remove:
        pins.remove_alias(opened, name)
        _say(as_json, f"removed @{name.removeprefix('@')}", {"removed": name.removeprefix("@")})
        return
    made = pins.set_alias(opened, name, opened.resolve(artifact))
    _say(as_json, f"@{made.name} is {made.address}", made.model_dump())


def list_pins(store: StoreOption = "store", as_json: JsonOption = False) -> None:
    """List pins and aliases."""
    opened = open_store(store)
    entries = [*pins.list_pins(opened), *pins.list_aliases(opened)]
    if as_json:
        print_json([entry.model_dump() for entry in entries])
        return
    rows = [
        {"artifact": e.address, "alias": f"@{e.name}" if e.name else "", "note": e.note, "since": e.since[:16]}
        for e in entries
    ]
    print_rows(rows, "")
    console.print(f"{len(rows)} pins and aliases in {store}")


def gc(
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it nothing is touched.")] = False,
    newest: Annotated[int, typer.Option("--newest", min=0, help="Artifacts of each stage that stay.")] = 2,
    age_hours: Annotated[float, typer.Option("--age-hours", min=0, help="Nothing younger than this goes.")] = 24.0,
    pages: Annotated[int, typer.Option("--pages", min=0, help="Pages of runs that stay.")] = garbage.PAGES,
    sweeps: Annotated[bool, typer.Option(help="Keep what the sweeps of the recipe file plan.")] = True,
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    as_json: JsonOption = False,
) -> None:
    """Show what nobody needs any more; --delete removes it.

    Kept are pins and aliases, what any profile or sweep of the recipe file plans, what a running flow or a half-done
    stage reads, the newest of each stage, and all that these were made from. The rest goes: artifacts, abandoned work
    directories, replaced artifacts, cut-short downloads, pages of old runs, stale lock files.
    """
    wanted = wanted_addresses(file, sweeps=sweeps)
    opened = open_store(store)
    with garbage.collecting(opened), words_aside(as_json):
        found = garbage.survey(opened, wanted, newest=newest, age_seconds=age_hours * _HOUR, pages=pages)
        results = [_result(opened, item, delete) for item in found.garbage]
        _print_survey(found, results, delete)
    if as_json:
        print_json(
            {"deleted": delete, "bytes": found.bytes, "items": results, "kept": found.kept, "spared": found.spared}
        )
    if any(row["left"] for row in results):
        raise typer.Exit(ExitCode.FAILED)


def _result(store: Store, item: garbage.Garbage, delete: bool) -> dict[str, Any]:
    left = garbage.collect(store, item) if delete else ""
    return {"what": item.what, "key": item.key, "path": item.path, "bytes": item.bytes, "why": item.why, "left": left}


def _print_survey(found: garbage.Survey, results: list[dict[str, Any]], delete: bool) -> None:
    shown = [
        {
            "what": row["what"],
            "which": row["key"],
            "MB": f"{row['bytes'] / _MEGABYTE:.2f}",
            "why": row["left"] or row["why"],
        }
        for row in results
        if row["what"] != "lock"
    ]
    print_rows(shown, "deleted" if delete else "would be deleted")
    locks = sum(row["what"] == "lock" for row in results)
    if locks:
        console.print(f"and {locks} lock files that no process holds")
    freed = sum(row["bytes"] for row in results if not row["left"])
    console.print(f"kept: {len(found.kept)} artifacts; left alone since young or in use: {len(found.spared)}")
    verb = "freed" if delete else "would free"
    console.print(f"{verb} {freed / _MEGABYTE:.1f} MB in {sum(not row['left'] for row in results)} things")
    if results and not delete:
        console.print("Nothing was touched; `nanbeige gc --delete` does it.")


def _say(as_json: bool, words: str, document: dict[str, Any]) -> None:
    if as_json:
        print_json(document)
    else:
        console.print(escape(words), highlight=False)
