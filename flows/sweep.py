"""Sweeps: arms times seeds of a recipe, sharing every common ancestor once, compared on one metric."""

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import RECIPE_FILE, override_lines
from flows.pipeline import DEFAULT_STORE, cache_directory
from flows.running import run_plan
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan
from nanbeige_core.recipe.schema import SweepArm, SweepEntry


@flow(name="sweep", task_runner=ThreadPoolTaskRunner(max_workers=48))  # type: ignore[arg-type]
def sweep(
    sweep: str,
    overrides: str | list[str] = "",
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> list[dict[str, Any]]:
    """Run every arm of a sweep and compare them.

    Args:
        sweep: Which sweep of the recipe file.
        overrides: Recipe values changed in every arm, one per line, for example dpd.beta=0.2
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    entry, changes = find_sweep(file, sweep), override_lines(overrides)
    rows = [_run_arm(entry, arm, seed, file, store, changes) for arm in entry.arms for seed in entry.seeds]
    for row in rows:
        get_run_logger().info("%s seed %s: %s = %s", row["arm"], row["seed"], entry.metric, row["value"])
    create_table_artifact(rows, key="sweep", description=f"{entry.title}: {entry.metric}")
    return rows


def find_sweep(file: str, name: str) -> SweepEntry:
    """Return a sweep of the recipe file; raise RecipeError for an unknown one."""
    import yaml

    from nanbeige_core.errors import nearest

    tree = yaml.safe_load(Path(file).read_text(encoding="utf-8")).get("sweeps") or {}
    if name not in tree:
        raise RecipeError(f"{file} has no sweep {name!r}; {nearest(name, tree)}")
    return SweepEntry.model_validate(tree[name])


def _run_arm(
    entry: SweepEntry, arm: SweepArm, seed: int, file: str, store: str, overrides: list[str]
) -> dict[str, Any]:
    changes = [*overrides, *arm.set, f"shared.seed={seed}"]
    recipe = load_recipe(Path(file), profile=entry.profile, overrides=changes)
    plan = make_plan(recipe, Store(store, cache_directory(store)), Selection(until=entry.until))
    result = run_plan(plan, store=store, cache=cache_directory(store))
    stage, _, metric = entry.metric.partition(".")
    manifest, _ = Store(store, cache_directory(store)).open(result.references[stage])
    values = {**manifest.outcome.metrics, **_gain_values(manifest.outcome.gain)}
    if metric not in values:
        raise RecipeError(f"sweep metric {entry.metric!r}: stage {stage} reports {', '.join(sorted(values))}")
    return {
        "arm": arm.name,
        "seed": seed,
        "value": values[metric],
        "artifact": manifest.reference.address,
        "executed": len(result.executed),
        "reused": len(plan.selected) - len(result.executed),
    }


def _gain_values(gain: Any) -> dict[str, float]:
    return {} if gain is None else {"before": gain.before, "after": gain.after, "gain": gain.after - gain.before}
