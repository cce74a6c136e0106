"""The plan: for each stage HIT, RUN or RESUME, and why, before anything runs.

Pure: it reads the recipe and the store's manifests, needs no server, and changes nothing. Fingerprints of downstream
stages follow from the recipe alone, because an artifact's identity is its stage, version, config and its inputs'
identities. `run` executes exactly this plan.
"""

from dataclasses import dataclass
from typing import Any, Literal

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef, address
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError
from nanbeige_core.recipe.adopted import describe_adopted, find_adopted, is_adopted, require_one_vocabulary
from nanbeige_core.recipe.fingerprint import fingerprint, identity_values
from nanbeige_core.recipe.load import Recipe, Stage

Action = Literal["HIT", "RUN", "RESUME", "SKIP"]
_SHOWN_CAUSES = 6


@dataclass(frozen=True)
class Selection:
    """Which part of the recipe to run; at most one of `start`, `only`, `until` besides `force`."""

    start: str | None = None
    only: str | None = None
    until: str | None = None
    force: bool = False


@dataclass(frozen=True)
class PlannedStage:
    """One stage with its identity, what will happen to it, and why."""

    stage: Stage
    identity: dict[str, Any]
    fingerprint: str
    action: Action
    causes: tuple[str, ...]
    reference: ArtifactRef | None
    forced: bool = False

    @property
    def name(self) -> str:
        """Return the stage's name."""
        return self.stage.name

    @property
    def address(self) -> str:
        """Return the artifact's readable address."""
        return address(self.name, self.fingerprint)


@dataclass(frozen=True)
class Plan:
    """Every stage of the recipe in topological order."""

    recipe: Recipe
    stages: dict[str, PlannedStage]

    @property
    def selected(self) -> list[PlannedStage]:
        """Return the stages that belong to the run, hits included."""
        return [planned for planned in self.stages.values() if planned.action != "SKIP"]

    @property
    def to_run(self) -> list[PlannedStage]:
        """Return the stages that will execute."""
        return [planned for planned in self.stages.values() if planned.action in ("RUN", "RESUME")]


def make_plan(recipe: Recipe, store: Store, selection: Selection | None = None) -> Plan:
    """Decide for each stage whether its artifact is there, must be made, or can be gone on with.

    Raises RecipeError for an unknown stage in the selection, when `only`/`start` needs an upstream artifact that is not
    there, or when the store's bucket does not exist; ArtifactError when a remote store cannot be reached.
    """
    selection = selection or Selection()
    store.check()
    needed = recipe.needed()
    chosen = _chosen(recipe, selection, needed)
    forced = chosen - _above(recipe, selection) if selection.force else set[str]()
    planned: dict[str, PlannedStage] = {}
    for name, stage in recipe.stages.items():
        if stage.adopted:
            planned[name] = _plan_adopted(stage, store)
            continue
        skip = "" if name in chosen else ("not selected" if name in needed else "only an adopted stage would read it")
        planned[name] = _plan_stage(stage, planned, store, skip=skip, forced=name in forced)
    require_one_vocabulary(recipe, {name: entry.reference for name, entry in planned.items()}, store)
    _require_upstream(recipe, planned, chosen)
    return Plan(recipe, planned)


def stage_identity(stage: Stage, input_fingerprints: dict[str, str]) -> dict[str, Any]:
    """Return what is fingerprinted: stage, version, identity config and the inputs' fingerprints."""
    return {
        "stage": stage.name,
        "uses": stage.spec.uses,
        "version": stage.spec.version,
        "config": identity_values(stage.config),
        "inputs": dict(sorted(input_fingerprints.items())),
    }


def _chosen(recipe: Recipe, selection: Selection, needed: set[str]) -> set[str]:
    given = [name for name in (selection.start, selection.only, selection.until) if name]
    if len(given) > 1:
        raise RecipeError(f"give one of from, only and until, not several ({', '.join(given)})")
    if selection.only:
        return {recipe.stage(selection.only).name}
    if selection.start:
        return {selection.start} | recipe.descendants(selection.start)
    if selection.until:
        return {selection.until} | recipe.ancestors(selection.until)
    return needed


def _above(recipe: Recipe, selection: Selection) -> set[str]:
    """Return stages that `--force` leaves alone: with `--until S` only S itself is made again."""
    return recipe.ancestors(selection.until) if selection.until else set()


def _plan_stage(
    stage: Stage, planned: dict[str, PlannedStage], store: Store, *, skip: str, forced: bool
) -> PlannedStage:
    inputs = {name: planned[upstream].fingerprint for name, upstream in stage.inputs.items()}
    identity = stage_identity(stage, inputs)
    key = fingerprint(identity)
    found = store.look(stage.name, key)
    reference = found.manifest.reference if found.manifest else None
    action: Action
    if skip:
        action, causes = "SKIP", (skip,)
    elif forced and (found.manifest or store.has_work(stage.name, key)):
        action, causes = "RUN", ("forced",)
    elif found.manifest:
        action, causes = "HIT", ("artifact is there",)
    elif store.has_work(stage.name, key):
        action, causes = "RESUME", ("an earlier run left a resume point",)
    else:
        action, causes = "RUN", _causes(stage, identity, found.problem, store, planned)
    return PlannedStage(stage, identity, key, action, causes, reference, forced and not skip)


def _plan_adopted(stage: Stage, store: Store) -> PlannedStage:
    """Put the adopted artifact in the stage's place: a hit, whatever the recipe says of the stage itself."""
    manifest = find_adopted(store, stage)
    reason = f"adopted ({describe_adopted(manifest)})"
    return PlannedStage(stage, manifest.identity, manifest.fingerprint, "HIT", (reason,), manifest.reference)


def _causes(
    stage: Stage, identity: dict[str, Any], problem: str, store: Store, planned: dict[str, PlannedStage]
) -> tuple[str, ...]:
    if problem != "not there":
        return (f"the artifact exists but {problem}",)
    earlier = [manifest for manifest in store.manifests(stage.name) if not is_adopted(manifest)]
    if not earlier:
        return ("never run",)
    difference = min((_differences(manifest, identity, stage) for manifest in earlier), key=len)
    if not difference:
        return ("its artifact was removed",)
    shown = difference[:_SHOWN_CAUSES]
    rest = len(difference) - len(shown)
    return tuple(shown) + ((f"and {rest} more",) if rest else ())


def _differences(manifest: Manifest, identity: dict[str, Any], stage: Stage) -> list[str]:
    before, now = _flatten(manifest.identity), _flatten(identity)
    lines: list[str] = []
    for key in sorted(set(before) | set(now)):
        old, new = before.get(key, "absent"), now.get(key, "absent")
        if old == new:
            continue
        if key.startswith("inputs."):
            name = key.removeprefix("inputs.")
            lines.append(f"input {name} changed ({stage.inputs.get(name, 'removed')})")
        else:
            lines.append(f"{key.removeprefix('config.')}: {old} -> {new}")
    return lines


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        flat: dict[str, Any] = {}
        for key, item in value.items():
            flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


def _require_upstream(recipe: Recipe, planned: dict[str, PlannedStage], chosen: set[str]) -> None:
    for name in chosen:
        for upstream in recipe.stages[name].inputs.values():
            if upstream not in chosen and planned[upstream].reference is None:
                raise RecipeError(
                    f"stage {name} needs the artifact of {upstream} ({planned[upstream].address}), which is not in "
                    f"the store. Make it first with `nanbeige run --until {upstream} --profile {recipe.profile}"
                    + "".join(f" --set {text}" for text in recipe.overrides)
                    + "`"
                )
