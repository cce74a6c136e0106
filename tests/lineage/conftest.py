"""A store made by real stages, from documents to rollouts, in one process: small enough for every test run."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.faults.tiny import tiny_recipe
from nanbeige_core.launch.execute import execute
from nanbeige_core.launch.orders import make_order
from nanbeige_core.megatron import parallel
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan


@dataclass(frozen=True)
class Made:
    """A finished tiny run."""

    folder: Path
    recipe: Path
    store: Store
    references: dict[str, ArtifactRef]

    def path(self, stage: str) -> Path:
        return Path(self.store.root) / self.references[stage].address


def run_recipe(recipe: Path, store: Store, *overrides: str, until: str | None = None) -> dict[str, ArtifactRef]:
    """Execute every stage of a recipe, or those up to `until`, in this process."""
    references: dict[str, ArtifactRef] = {}
    plan = make_plan(load_recipe(recipe, profile="laptop", overrides=list(overrides)), store, Selection(until=until))
    for planned in plan.stages.values():
        if planned.reference is not None:
            references[planned.name] = planned.reference
        elif planned.action != "SKIP":
            inputs = {name: references[upstream] for name, upstream in planned.stage.inputs.items()}
            references[planned.name] = execute(make_order(planned), inputs, store).manifest.reference
        parallel.teardown()
    return references


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A store in which a tiny model went from documents to rollouts."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lineage")
    recipe = tiny_recipe(folder)
    store = Store(folder / "store", folder / "store/.cache")
    yield Made(folder, recipe, store, run_recipe(recipe, store, until="rl_stem"))
    parallel.teardown()
