"""Load `pipelines.yaml`: merged and interpolated (tree.py), validated by pydantic, the graph checked.

Everything that can be known to be wrong before a stage runs is raised here, naming the place in the file.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nanbeige_core.contract import Runtime
from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.configs.base import IdentityConfig
from nanbeige_core.recipe.consistency import (
    check_judges,
    check_layouts,
    check_rollouts,
    check_sources,
    check_tokenizers,
)
from nanbeige_core.recipe.measures import known_measures, require_measure
from nanbeige_core.recipe.overrides import apply_overrides, touched_stages
from nanbeige_core.recipe.schedules import check_schedules
from nanbeige_core.recipe.schema import ProfileEntry, RecipeFile, StageEntry, SweepEntry
from nanbeige_core.recipe.tree import (
    Tree,
    copied,
    is_reference,
    overlay,
    parse_tree,
    read_text,
    require_no_environment,
    resolved,
)
from nanbeige_core.stages import STAGES, StageSpec

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Stage:
    """One stage of a loaded recipe, typed and checked."""

    name: str
    spec: StageSpec
    inputs: dict[str, str]
    config: IdentityConfig
    runtime: Runtime
    adopted: str = ""
    """Fingerprint (16 digits or more) of an artifact that stands in for the stage, which then has no inputs."""
    stands_for: dict[str, str] = field(default_factory=dict[str, str])
    """Inputs the stage would have had, were it not adopted."""
    when_read: bool = False
    """Whether it is left out of a recipe in which nothing reads it."""


@dataclass(frozen=True)
class Recipe:
    """A recipe under one profile: stages in topological order."""

    file: RecipeFile
    path: Path
    profile: str
    overrides: tuple[str, ...]
    stages: dict[str, Stage]
    left_out: dict[str, Stage] = field(default_factory=dict[str, Stage])
    """Stages marked `when_read` that nothing reads."""

    @property
    def cores(self) -> int:
        """Return how many ranks times threads may run at once."""
        return self.file.profiles[self.profile].cores

    def ancestors(self, name: str) -> set[str]:
        """Return every stage that `name` depends on, directly or not."""
        return self.ancestors_of((self.stage(name).name,))

    def ancestors_of(self, names: Iterable[str]) -> set[str]:
        """Return every stage that one of `names` depends on, directly or not; each is looked at once."""
        found: set[str] = set()
        pending = [upstream for name in names for upstream in self.stages[name].inputs.values()]
        while pending:
            current = pending.pop()
            if current not in found:
                found.add(current)
                pending.extend(self.stages[current].inputs.values())
        return found

    def descendants(self, name: str) -> set[str]:
        """Return every stage that depends on `name`, directly or not."""
        found = {self.stage(name).name}
        for other, stage in self.stages.items():  # in topological order: what a stage reads was looked at before it
            if not found.isdisjoint(stage.inputs.values()):
                found.add(other)
        return found - {name}

    def needed(self) -> set[str]:
        """Return the stages somebody reads: all but those that only adopted artifacts would have been made from."""
        read = {up for stage in self.stages.values() for up in (*stage.inputs.values(), *stage.stands_for.values())}
        last = set(self.stages) - read
        return last | self.ancestors_of(last)

    def stage(self, name: str) -> Stage:
        """Return a stage by name; raise RecipeError with the nearest known name, or with what would read the stage."""
        if name in self.left_out:
            raise RecipeError(f"stage {name} is left out, because nothing reads it. {self._how_to_read(name)}")
        if name not in self.stages:
            raise RecipeError(f"the recipe has no stage {name!r}; {nearest(name, self.stages)}")
        return self.stages[name]

    def _how_to_read(self, name: str) -> str:
        made = self.left_out[name].spec.produces
        ways = [
            f"--set {reader.name}.in.{place}={name}"
            for reader in self.stages.values()
            for place, kind in reader.spec.consumes.items()
            if kind is made and place in reader.spec.optional and place not in reader.inputs
        ]
        return f"Let a stage read it: {' or '.join(ways)}." if ways else f"Let a stage read its {made}."


def load_recipe(path: Path, *, profile: str, overrides: list[str] | None = None) -> Recipe:
    """Load a recipe file under a profile with overrides.

    Raises RecipeError with file and place for unreadable YAML, unknown keys, out-of-range values, unknown stages or
    profiles, inputs of the wrong type, and cycles.
    """
    return RecipeSource(path).checked_recipe(profile, overrides or [])


class RecipeSource:
    """A recipe file read once, from which recipes under any profile and overrides are made."""

    def __init__(self, path: Path, text: str | None = None) -> None:
        """Parse the file at `path`, or `text` that was read from there."""
        self.path = path
        self._tree = parse_tree(read_text(path) if text is None else text, path)
        self.file = _checked_file(self._tree, path)
        self._merged: dict[str, Tree] = {}
        self._plain: dict[str, Tree] = {}
        self._sweeps_are_sound = False

    def recipe(self, profile: str, overrides: list[str]) -> Recipe:
        """Return the recipe under a profile; raise RecipeError for whatever is wrong with it."""
        for text in overrides:
            require_no_environment(text, f"override {text!r}")
        if overrides:
            tree = copied(self._merge(profile))
            apply_overrides(tree, overrides)
            stages = self._stages(resolved(tree, self.path))
        else:
            stages = self._stages(self._resolved(profile))
        ordered = _ordered(stages, self.path)
        recipe = Recipe(self.file, self.path, profile, tuple(overrides), {name: stages[name] for name in ordered})
        kept = _without_unread(recipe)
        check_layouts(kept.stages, self.path)
        check_judges(kept.stages, self.path)
        check_tokenizers(kept.stages, self.path)
        check_rollouts(kept.stages, self.path)
        check_sources(kept.stages, self.path)
        return kept

    def checked_recipe(self, profile: str, overrides: list[str]) -> Recipe:
        """Return the recipe under a profile, with the file's sweeps checked too."""
        recipe = self.recipe(profile, overrides)
        self.check_sweeps()
        return recipe

    def check_sweeps(self) -> None:
        """Raise RecipeError for a sweep whose profile, overrides, seed fields or measure do not exist."""
        if self._sweeps_are_sound:
            return
        checked: set[tuple[str, ...]] = set()
        for name, entry in self.file.sweeps.items():
            seeded = [f"{field}={entry.seeds[0]}" for field in entry.seed_fields]
            for changes in (seeded, *([*entry.set, *arm.set] for arm in entry.arms)):
                key = (entry.profile, entry.metric, *changes)
                if key in checked:
                    continue
                checked.add(key)
                try:
                    self._check_changes(entry, changes)
                except RecipeError as error:
                    raise RecipeError(f"{self.path}: sweeps.{name}: {error}") from error
        self._sweeps_are_sound = True

    def _check_changes(self, entry: SweepEntry, changes: list[str]) -> None:
        """Build the stages that the changes reach, and no others: sweeps are checked at every load."""
        tree = self._merge(entry.profile)
        if entry.stage not in tree["stages"]:
            raise RecipeError(
                f"metric {entry.metric!r} is of stage {entry.stage!r}, which the recipe lacks; "
                f"{nearest(entry.stage, map(str, tree['stages']))}"
            )
        touched = touched_stages(tree, changes) | {entry.stage}
        shared = any(text.startswith("shared.") or is_reference(text) for text in changes)
        values = tree if shared else self._resolved(entry.profile)
        part: Tree = copied({**values, "stages": {name: values["stages"][name] for name in touched}})
        apply_overrides(part, changes)
        stage = self._stages(resolved(part, self.path) if shared else part)[entry.stage]
        require_measure(entry.measure, known_measures(stage.spec, stage.inputs, stage.config), entry.metric)

    def _resolved(self, profile: str) -> Tree:
        if profile not in self._plain:
            self._plain[profile] = resolved(self._merge(profile), self.path)
        return self._plain[profile]

    def _merge(self, profile: str) -> Tree:
        if profile not in self.file.profiles:
            raise RecipeError(f"{self.path} has no profile {profile!r}; {nearest(profile, self.file.profiles)}")
        if profile not in self._merged:
            self._merged[profile] = _merge(self._tree, profile, self.path)
        return self._merged[profile]

    def _stages(self, tree: Tree) -> dict[str, Stage]:
        return {
            str(name): _stage(str(name), values, tree["runtime"], self.path) for name, values in tree["stages"].items()
        }


def _merge(tree: Tree, profile: str, path: Path) -> Tree:
    chosen = tree["profiles"][profile]
    stages = _chain(tree, profile, path)
    for name in chosen.get("stages") or {}:
        if name not in stages:
            raise RecipeError(
                f"{path}: profiles.{profile}.stages.{name} overrides a stage the recipe lacks; "
                f"{nearest(str(name), map(str, stages))}"
            )
    base = {"shared": tree.get("shared") or {}, "runtime": tree.get("runtime") or {}, "stages": stages}
    merged: Tree = {}
    for section, values in base.items():  # in this order: stages refer to what is shared
        merged[section] = overlay(values, chosen.get(section) or {}, merged)
    return merged


def _chain(tree: Tree, profile: str, path: Path) -> Tree:
    """Return the stages a profile runs: the recipe's, or those of the chain it names."""
    name, chains = tree["profiles"][profile].get("chain") or "", tree.get("chains") or {}
    if name and name not in chains:
        raise RecipeError(f"{path}: profiles.{profile}.chain is {name!r}; {nearest(name, map(str, chains))}")
    return chains[name] if name else tree["stages"]


def _stage(name: str, values: Any, runtime: dict[str, Any], path: Path) -> Stage:
    place = f"{path}: stages.{name}"
    entry = _validated(StageEntry, values, place)
    uses = entry.uses or name
    if uses not in STAGES:
        raise RecipeError(f"{place}.uses is {uses!r}, which is no stage type; {nearest(uses, STAGES)}")
    spec = STAGES[uses]
    inputs = _checked_inputs({key: made for key, made in entry.inputs.items() if made is not None}, spec, place)
    adopted = _adopted(name, entry.adopted, place)
    config = _validated(spec.config_class(), entry.config, f"{place}.config")
    execution = _validated(Runtime, {**runtime, **entry.runtime}, f"{place}.runtime")
    _require_endpoint(config, execution, place)
    return Stage(
        name=name,
        spec=spec,
        inputs={} if adopted else inputs,
        config=config,
        runtime=execution,
        adopted=adopted,
        stands_for=inputs if adopted else {},
        when_read=entry.when_read,
    )


def _require_endpoint(config: IdentityConfig, runtime: Runtime, place: str) -> None:
    served = config.served_models()
    if served and not runtime.endpoint_url.startswith(("http://", "https://")):
        raise RecipeError(
            f"{place}.config names the served model{'s' * (len(served) > 1)} {', '.join(served)}, but "
            f"runtime.endpoint_url is {runtime.endpoint_url!r}: expected an OpenAI-compatible address such as "
            "http://127.0.0.1:8000/v1. Set it, or name only teacher and student."
        )


def _adopted(name: str, value: str, place: str) -> str:
    """Return the fingerprint of an `adopted:` value, which may be written as an address."""
    stage, _, digits = value.rpartition("/")
    if stage and stage != name:
        raise RecipeError(
            f"{place}.adopted is {value}, an artifact of stage {stage}: what stands in for {name} is registered for "
            f"{name}. Run `nanbeige adopt {name} PATH` and write the fingerprint it prints."
        )
    return digits


def _checked_inputs(inputs: dict[str, str], spec: StageSpec, place: str) -> dict[str, str]:
    missing = [name for name in spec.consumes if name not in inputs and name not in spec.optional]
    if missing:
        raise RecipeError(
            f"{place}.in lacks {', '.join(missing)}: {spec.uses} consumes "
            + ", ".join(f"{name} ({kind})" for name, kind in spec.consumes.items())
        )
    chosen = sorted(spec.one_of & inputs.keys())
    if spec.one_of and len(chosen) != 1:
        raise RecipeError(
            f"{place}.in has {' and '.join(chosen) or 'none'} of {', '.join(sorted(spec.one_of))}: {spec.uses} reads "
            "exactly one of them"
        )
    unknown = [name for name in inputs if name not in spec.consumes]
    if unknown and spec.further is None and not spec.compares:
        raise RecipeError(f"{place}.in.{unknown[0]} is not an input; {nearest(unknown[0], spec.consumes)}")
    return dict(inputs)


def _ordered(stages: dict[str, Stage], path: Path) -> list[str]:
    for stage in stages.values():
        for name, upstream in stage.inputs.items():
            _check_edge(stage, name, upstream, stages, path)
    try:
        order = list(TopologicalSorter({name: stage.inputs.values() for name, stage in stages.items()}).static_order())
    except CycleError as error:
        raise RecipeError(
            f"{path}: the stages form a cycle: {' -> '.join(error.args[1])}. A stage may only read what "
            "earlier stages make; change one of these `in:` lines."
        ) from error
    return order


def _without_unread(recipe: Recipe) -> Recipe:
    """Return the recipe without the `when_read` stages on which no other kind of stage depends."""
    always = {name for name, stage in recipe.stages.items() if not stage.when_read}
    kept = always | recipe.ancestors_of(always)
    stages, left_out = (
        {name: stage for name, stage in recipe.stages.items() if (name in kept) == wanted} for wanted in (True, False)
    )
    return replace(recipe, stages=stages, left_out=left_out)


def _check_edge(stage: Stage, name: str, upstream: str, stages: dict[str, Stage], path: Path) -> None:
    place = f"{path}: stages.{stage.name}.in.{name}"
    if upstream not in stages:
        raise RecipeError(f"{place} reads stage {upstream!r}, which the recipe lacks; {nearest(upstream, stages)}")
    expected = stage.spec.consumes.get(name) or stage.spec.further
    made = stages[upstream].spec.produces
    if expected is not None and made != expected:
        raise RecipeError(f"{place} needs a {expected}, but stage {upstream} makes a {made}")


def _validated(model: type[T], values: Any, place: str) -> T:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(model, problem, place) for problem in error.errors())) from error


def _explain(model: type[BaseModel], problem: Any, place: str) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _known_names(model, problem["loc"][:-1])
        return f"{place}.{where} is not a known key; {nearest(str(problem['loc'][-1]), known)}"
    return f"{place}.{where}: {problem['msg']} (found {problem['input']!r})"


def _known_names(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            continue
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((item for item in candidates if hasattr(item, "model_fields")), current)
    return [field.alias or name for name, field in current.model_fields.items()]


def load_recipe_file(path: Path) -> RecipeFile:
    """Return a recipe file's stages, profiles, sweeps and schedules as written, without merging a profile."""
    return _checked_file(parse_tree(read_text(path), path), path)


def load_profile_names(path: Path) -> dict[str, ProfileEntry]:
    """Return the profiles of a recipe file without loading its stages."""
    return load_recipe_file(path).profiles


def _checked_file(tree: Tree, path: Path) -> RecipeFile:
    recipe_file = _validated(RecipeFile, tree, str(path))
    check_schedules(recipe_file, path)
    return recipe_file
