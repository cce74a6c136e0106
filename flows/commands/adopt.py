"""`nanbeige adopt`: register a checkpoint, tokenizer or corpus that somebody has, in the place of a stage."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from pydantic import ValidationError
from rich.markup import escape

from flows.console import FileOption, JsonOption, ProfileOption, SetOption, StoreOption, console, open_store
from flows.parameters import RECIPE_FILE
from nanbeige_core.artifacts import pins
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.adopted import tokenizer_of
from nanbeige_core.recipe.load import Recipe, load_recipe
from nanbeige_core.recipe.plan import make_plan

if TYPE_CHECKING:
    from nanbeige_core.adopt.documents import CorpusFields


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("adopt")(adopt)


def adopt(
    stage: Annotated[str, typer.Argument(help="The stage in whose place it stands, e.g. overall_sft or ingest.")],
    path: Annotated[Path, typer.Argument(help="Folder or file: a model, a tokenizer, a corpus, an artifact's files.")],
    profile: ProfileOption = "laptop",
    overrides: SetOption = [],  # noqa: B006 (typer reads the default, nobody changes it)
    file: FileOption = RECIPE_FILE,
    store: StoreOption = "store",
    category: Annotated[str, typer.Option("--category", help="Corpus: web, book, paper, code, math, ...")] = "web",
    name: Annotated[str, typer.Option("--name", help="Corpus: its name in reports.")] = "adopted",
    text_field: Annotated[str, typer.Option("--text-field", help="Corpus: the column that holds the text.")] = "text",
    language: Annotated[str, typer.Option("--language", help="Corpus: en, zh or code; empty detects it.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Corpus: recorded with every document.")] = "unknown",
    as_json: JsonOption = False,
) -> None:
    """Register something from outside as the artifact of a stage, so that the stages after it can use it."""
    # imported here: NumPy and Arrow would slow the start of every command
    from nanbeige_core.adopt.recognise import recognise
    from nanbeige_core.adopt.register import register as register_source
    from nanbeige_core.adopt.source import Wanted

    fields = _fields(category, name, text_field, language, licence)
    recipe = load_recipe(file, profile=profile, overrides=overrides)
    spec = recipe.stage(stage).spec
    opened = open_store(store)
    wanted = Wanted(stage, _tokenizer(recipe, stage, opened), _trains_on(recipe, stage))
    source = recognise(path, spec.produces, wanted, fields)
    manifest, made = register_source(opened, stage, spec, source)
    pins.pin(opened, manifest, f"adopted from {path}")  # no recipe makes it again, and --set alone is no root for gc
    short = manifest.fingerprint[:16]
    if as_json:
        known = {
            "address": manifest.reference.address,
            "fingerprint": manifest.fingerprint,
            "made": made,
            "pinned": True,
        }
        print(json.dumps({**known, "format": source.format, "set": f"{stage}.adopted={short}"}, indent=1))
        return
    console.print(f"[bold]{manifest.reference.address}[/bold]  {manifest.kind.value}, {source.format}")
    console.print(escape(manifest.outcome.summary if made else "It was adopted before; nothing was written."))
    console.print(f"It is pinned: gc keeps it until `nanbeige unpin {stage}/{short}`.", highlight=False)
    console.print(f"Use it once:    nanbeige run --set {stage}.adopted={short}", highlight=False)
    console.print(f'Use it always:  stages.{stage}.adopted: "{short}" in {file.name}', highlight=False)


def _tokenizer(recipe: Recipe, stage: str, store: Store) -> Path | None:
    """Return where the tokenizer lies that the recipe would use with the stage's product; None when it is not made."""
    name = tokenizer_of(recipe, stage)
    if name is None or name == stage:
        return None
    reference = make_plan(recipe, store).stages[name].reference
    return store.open(reference)[1] if reference is not None else None


def _trains_on(recipe: Recipe, stage: str) -> bool:
    """Tell whether a pretraining phase goes on from this stage, with optimizer and data position."""
    later = [other for other in recipe.stages.values() if other.inputs.get("checkpoint") == stage]
    return any(other.spec.entry.endswith("megatron.pretrain:run") for other in later)


def _fields(category: str, name: str, text_field: str, language: str, licence: str) -> "CorpusFields":
    from nanbeige_core.adopt.documents import CorpusFields

    given = {"category": category, "name": name, "text_field": text_field, "licence": licence}
    try:
        return CorpusFields.model_validate({**given, "language": language or None})
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(cast(str, problem["loc"][0])).replace("_", "-")
        raise RecipeError(f"--{option} {problem['input']!r}: {problem['msg']}") from error
