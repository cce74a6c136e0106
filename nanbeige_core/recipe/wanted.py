"""Which artifacts a recipe file stands for: what each of its profiles and each point of its sweeps plans."""

from pathlib import Path

from nanbeige_core.artifacts.references import address
from nanbeige_core.recipe.fingerprint import fingerprint
from nanbeige_core.recipe.load import Recipe, load_recipe, load_recipe_file
from nanbeige_core.recipe.plan import stage_identity
from nanbeige_core.recipe.sweep_plan import seed_changes


def recipe_fingerprints(recipe: Recipe) -> dict[str, str]:
    """Return every stage's fingerprint; it follows from the recipe alone, without a store."""
    found: dict[str, str] = {}
    for name, stage in recipe.stages.items():
        inputs = {key: found[upstream] for key, upstream in stage.inputs.items()}
        found[name] = fingerprint(stage_identity(stage, inputs))
    return found


def wanted_addresses(path: Path, *, sweeps: bool = True) -> dict[str, str]:
    """Return `address -> why` for all profiles of a recipe file, and for all arms and seeds of its sweeps.

    Raises RecipeError when any of them cannot be loaded: what the file wants is then unknown.
    """
    file = load_recipe_file(path)
    wanted: dict[str, str] = {}
    for profile in file.profiles:
        _add(wanted, load_recipe(path, profile=profile), f"profile {profile} plans it")
    if sweeps:
        for name, entry in file.sweeps.items():
            for arm in entry.arms:
                for seed in entry.seeds:
                    changes = [*entry.set, *arm.set, *seed_changes(entry, arm, seed)]
                    recipe = load_recipe(path, profile=entry.profile, overrides=changes)
                    _add(wanted, recipe, f"sweep {name} plans it (arm {arm.name}, seed {seed})")
    return wanted


def _add(wanted: dict[str, str], recipe: Recipe, why: str) -> None:
    for name, key in recipe_fingerprints(recipe).items():
        wanted.setdefault(address(name, key), why)
