"""What the shell offers after TAB: stages, profiles, sweeps, artifacts. It reads names only."""

from pathlib import Path
from typing import Any

import typer
import yaml

from flows.parameters import RECIPE_FILE


def complete_stage(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the stages of the recipe file on the command line."""
    return _beginning(_recipe(context).get("stages"), incomplete)


def complete_profile(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the profiles of the recipe file on the command line."""
    return _beginning(_recipe(context).get("profiles"), incomplete)


def complete_sweep(context: typer.Context, incomplete: str) -> list[str]:
    """Offer the sweeps of the recipe file on the command line."""
    return _beginning(_recipe(context).get("sweeps"), incomplete)


def complete_override(context: typer.Context, incomplete: str) -> list[str]:
    """Offer `stage.`, then `stage.field=`, for `--set`."""
    stage, dot, _ = incomplete.partition(".")
    tree = _recipe(context)
    chains = (tree.get("chains") or {}).values()
    stages = {name: entry for part in (tree.get("stages") or {}, *chains) for name, entry in part.items()}
    if not dot:
        return _beginning([f"{name}." for name in stages], incomplete)
    from nanbeige_core.stages import STAGES

    uses = (stages.get(stage) or {}).get("uses") or stage
    fields = STAGES[uses].config_class().model_fields if uses in STAGES else {}
    return _beginning([f"{stage}.{name}=" for name in fields], incomplete)


def complete_artifact(context: typer.Context, incomplete: str) -> list[str]:
    """Offer aliases, stage names and addresses of a local store."""
    root = Path(str(context.params.get("store") or "store"))
    sealed = [path.parent for path in root.glob("*/*/.artifact.json")]
    names = {path.parent.name for path in sealed} | {f"{path.parent.name}/{path.name}" for path in sealed}
    names |= {f"@{path.stem}" for path in root.glob(".aliases/*.json")}
    return _beginning(names, incomplete)


def _recipe(context: typer.Context) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(str(context.params.get("file") or RECIPE_FILE)).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _beginning(names: Any, incomplete: str) -> list[str]:
    return sorted(str(name) for name in names or () if str(name).startswith(incomplete))
