"""Adopted artifacts in a plan: find what stands in for a stage, and refuse what cannot stand there."""

from collections.abc import Mapping

from nanbeige_core.artifacts.kinds import Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef, address
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import Recipe, Stage

ADOPTED = "adopted"
"""Key of an identity that says what was adopted: its format, the digest of its content, and what was told of it."""


def is_adopted(manifest: Manifest) -> bool:
    """Tell whether an artifact was registered from outside."""
    return ADOPTED in manifest.identity


def describe_adopted(manifest: Manifest) -> str:
    """Return in words what stands in for a stage."""
    return str(manifest.identity[ADOPTED]["format"]) if is_adopted(manifest) else "an artifact of this store"


def find_adopted(store: Store, stage: Stage) -> Manifest:
    """Return the manifest of the artifact that stands in for a stage.

    Raises RecipeError when it is not in the store, cannot be served, or has another type than the stage makes.
    """
    place = f"stages.{stage.name}.adopted"
    known = [one for one in store.manifests(stage.name) if one.fingerprint.startswith(stage.adopted)]
    if not known:
        raise RecipeError(
            f"{place} is {stage.adopted}, which is not in {store.url}. Register it with `nanbeige adopt {stage.name} "
            f"PATH --store {store.url}`, or take `adopted` out of the recipe."
        )
    found = store.look(stage.name, known[0].fingerprint)
    where = address(stage.name, known[0].fingerprint)
    if found.manifest is None:
        raise RecipeError(
            f"{place} is {where}, which cannot be used: {found.problem}. Delete its folder and run `nanbeige adopt "
            f"{stage.name} PATH` again."
        )
    if found.manifest.kind != stage.spec.produces:
        raise RecipeError(
            f"{place} is {where}, a {found.manifest.kind}; stage {stage.name} makes a {stage.spec.produces}. "
            "Adopt an artifact of that type."
        )
    return found.manifest


def tokenizer_of(recipe: Recipe, name: str) -> str | None:
    """Return the stage whose tokenizer the products of stage `name` are used with; None in a recipe without one."""
    stages = recipe.stages
    made = [one for one, stage in stages.items() if stage.spec.produces == Kind.TOKENIZER]
    beside = [
        up for stage in stages.values() if name in stage.inputs.values() for up in stage.inputs.values() if up in made
    ]
    return next(iter([*beside, *made]), None)


def require_one_vocabulary(recipe: Recipe, references: Mapping[str, ArtifactRef | None], store: Store) -> None:
    """Refuse an adopted model whose ids are another tokenizer's; nothing to compare while there is no tokenizer yet.

    Raises RecipeError.
    """
    for name in (name for name, stage in recipe.stages.items() if stage.adopted):
        tokenizer, reference = tokenizer_of(recipe, name), references.get(name)
        made = references.get(tokenizer) if tokenizer else None
        if reference is None or made is None:
            continue
        theirs = store.open(reference)[0].identity.get(ADOPTED, {}).get("tokenizer")
        if theirs is None:
            continue
        from nanbeige_core.data.tokenizer import tokenizer_fingerprint  # only where something was adopted

        ours = tokenizer_fingerprint(store.open(made)[1])
        if theirs != ours:
            raise RecipeError(
                f"stages.{name}.adopted is {reference.address}, a model with tokenizer {theirs}, but {made.address} "
                f"is tokenizer {ours}: its ids would mean other text. Adopt the model's own tokenizer as well "
                f"(`nanbeige adopt {tokenizer} PATH`), or another model."
            )
