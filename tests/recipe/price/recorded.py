"""What a complete laptop run counted, taken from its manifests: `python -m tests.recipe.price.recorded STORE`."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.load import Recipe, load_recipe
from tests.conftest import RECIPE_FILE

FILE = Path(__file__).with_name("laptop_run.json")


def record(store: Path) -> None:
    """Write config, counts, tokens, bytes and seconds of each stage's newest artifact."""
    stages: dict[str, Any] = {}
    for manifest in reversed(Store(store, store / ".cache").manifests()):
        stages[manifest.stage] = {
            "config": manifest.identity["config"],
            "runtime": manifest.runtime,
            "counts": manifest.outcome.counts,
            "tokens": manifest.outcome.tokens,
            "bytes": manifest.bytes,
            "seconds": manifest.seconds,
        }
    FILE.write_text(json.dumps(dict(sorted(stages.items())), indent=1) + "\n")


def recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def recorded_recipe() -> Recipe:
    """Return the recipe with the very values of the recorded run, whatever the profile says by now."""
    recipe, run = load_recipe(RECIPE_FILE, profile="laptop"), recorded()
    stages = {
        name: dataclasses.replace(
            stage,
            config=type(stage.config).model_validate(run[name]["config"]),
            runtime=type(stage.runtime).model_validate(run[name]["runtime"]),
        )
        for name, stage in recipe.stages.items()
    }
    return dataclasses.replace(recipe, stages=stages)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
