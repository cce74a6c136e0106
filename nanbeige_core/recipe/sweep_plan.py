"""The plan of a sweep: arms times seeds, every stage that several runs share once.

Two runs share a stage when its fingerprint is the same, so sharing follows from what the arms change and needs no
declaration. Pure, like the plan of a recipe.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.configs.sweep import ComparedArm, FailedRun, SweepReportConfig
from nanbeige_core.recipe.load import RecipeSource
from nanbeige_core.recipe.measures import RECORDS, known_measures
from nanbeige_core.recipe.plan import Plan, PlannedStage, Selection, make_plan
from nanbeige_core.recipe.schema import SweepArm, SweepEntry


@dataclass(frozen=True)
class SweepRun:
    """One arm under one seed: its recipe, planned up to the stage that is measured."""

    arm: str
    seed: int
    plan: Plan

    @property
    def label(self) -> str:
        """Return arm and seed as words."""
        return f"{self.arm}, seed {self.seed}"


@dataclass(frozen=True)
class SharedStage:
    """One stage as it will be made (or found) once, and the runs that need it."""

    planned: PlannedStage
    inputs: dict[str, str]
    """Input name -> fingerprint."""
    runs: tuple[str, ...]


@dataclass(frozen=True)
class SweepPlan:
    """Every run of a sweep, and every distinct stage they need in topological order."""

    name: str
    entry: SweepEntry
    overrides: tuple[str, ...]
    runs: list[SweepRun]
    stages: dict[str, SharedStage]
    """Fingerprint -> stage."""

    @property
    def to_run(self) -> list[SharedStage]:
        """Return the stages that will execute."""
        return [stage for stage in self.stages.values() if stage.planned.action in ("RUN", "RESUME")]

    @property
    def cores(self) -> int:
        """Return how many ranks times threads may run at once."""
        return self.runs[0].plan.recipe.cores

    def report_config(self, failures: list[FailedRun]) -> SweepReportConfig:
        """Return what the comparison of the arms is made from."""
        stage = self.runs[0].plan.recipe.stage(self.entry.stage)
        return SweepReportConfig(
            sweep=self.name,
            title=self.entry.title,
            profile=self.entry.profile,
            stage=self.entry.stage,
            measure=self.entry.measure,
            higher_is_better=known_measures(stage.spec, stage.inputs, stage.config)[self.entry.measure],
            baseline=self.entry.baseline_name,
            arms=tuple(
                ComparedArm(name=arm.name, set=tuple(arm.set), seed_offset=arm.seed_offset) for arm in self.entry.arms
            ),
            seeds=tuple(self.entry.seeds),
            seed_fields=tuple(self.entry.seed_fields),
            overrides=(*self.entry.set, *self.overrides),
            failures=tuple(failures),
        )


def plan_sweep(path: Path, name: str, store: Store, overrides: list[str] | None = None) -> SweepPlan:
    """Plan every run of a sweep of the recipe file; `overrides` change every arm, and an arm's own values win.

    Raises RecipeError for an unknown sweep and for whatever is wrong with the recipe.
    """
    source = RecipeSource(path)
    source.check_sweeps()
    if name not in source.file.sweeps:
        raise RecipeError(f"{path} has no sweep {name!r}; {nearest(name, source.file.sweeps)}")
    entry = source.file.sweeps[name]
    runs: list[SweepRun] = []
    for arm in entry.arms:
        for seed in entry.seeds:
            changes = [*(overrides or []), *entry.set, *arm.set, *seed_changes(entry, arm, seed)]
            plan = make_plan(source.recipe(entry.profile, changes), store, Selection(until=entry.stage))
            runs.append(SweepRun(arm.name, seed, _with_records(plan, entry.stage, store)))
    return SweepPlan(name, entry, tuple(overrides or []), runs, _share(runs))


def seed_changes(entry: SweepEntry, arm: SweepArm, seed: int) -> list[str]:
    """Return the overrides by which one run of an arm differs from its other runs."""
    return [f"{field}={seed + arm.seed_offset}" for field in entry.seed_fields]


def _with_records(plan: Plan, stage: str, store: Store) -> Plan:
    """Return the plan with the measured stage made again if its artifact has no per-problem records."""
    planned = plan.stages[stage]
    if planned.action != "HIT":
        return plan
    manifest = store.find(stage, planned.fingerprint)
    if manifest is None or RECORDS in manifest.files:
        return plan
    again = replace(
        planned,
        action="RUN",
        causes=("its artifact keeps means only; made again with per-problem records",),
        forced=True,
    )
    return replace(plan, stages={**plan.stages, stage: again})


def _share(runs: list[SweepRun]) -> dict[str, SharedStage]:
    first: dict[str, tuple[Plan, PlannedStage]] = {}
    users: dict[str, list[str]] = {}
    for run in runs:
        for planned in run.plan.selected:
            first.setdefault(planned.fingerprint, (run.plan, planned))
            users.setdefault(planned.fingerprint, []).append(run.label)
    return {
        key: SharedStage(
            planned,
            {name: plan.stages[upstream].fingerprint for name, upstream in planned.stage.inputs.items()},
            tuple(users[key]),
        )
        for key, (plan, planned) in first.items()
    }
