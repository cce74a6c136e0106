"""The flows a person triggers: the full recipe, and one stage of it."""

import time
from enum import Enum
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.parameters import ALL, RECIPE_FILE, Profile, Stage, stage_or_none
from flows.running import RunFailedError, RunResult, run_plan
from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Plan, Selection, make_plan
from nanbeige_core.report.plan_report import plan_markdown, plan_rows
from nanbeige_core.report.run_report import RunFacts, summary_rows, write_run_report

DEFAULT_STORE = "store"
_LAPTOP = Profile("laptop")
_ALL = Stage(ALL)
_WORKERS = 48  # more than the number of stages: a thread that waits for cores or a lock must not block another stage


@flow(name="recipe", task_runner=ThreadPoolTaskRunner(max_workers=_WORKERS))  # type: ignore[arg-type]
def recipe(
    profile: Profile = _LAPTOP,  # type: ignore[valid-type]
    start_from: Stage = _ALL,  # type: ignore[valid-type]
    until: Stage = _ALL,  # type: ignore[valid-type]
    only: Stage = _ALL,  # type: ignore[valid-type]
    force: bool = False,
    overrides: list[str] | None = None,
    plan_only: bool = False,
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> list[str]:
    """Run the recipe, or the chosen part of it; what is already in the store is not made again.

    Args:
        profile: The size of everything: laptop, one GPU box, or the report's own.
        start_from: Run this stage and all that depend on it; what comes before must be there.
        until: Run this stage and all it depends on.
        only: Run this one stage; what comes before must be there.
        force: Make the selected stages again even if they are there.
        overrides: Recipe values to change, one per line, such as dpd.beta=0.2.
        plan_only: Show what would run and stop.
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    selection = Selection(stage_or_none(start_from), stage_or_none(only), stage_or_none(until), force)
    plan = plan_run(file, str(getattr(profile, "value", profile)), overrides or [], store, selection)
    _show_plan(plan)
    if plan_only:
        return [planned.name for planned in plan.to_run]
    return _execute(plan, store).executed


@flow(name="stage", task_runner=ThreadPoolTaskRunner(max_workers=_WORKERS))  # type: ignore[arg-type]
def stage(
    stage: Stage,  # type: ignore[valid-type]
    profile: Profile = _LAPTOP,  # type: ignore[valid-type]
    force: bool = True,
    overrides: list[str] | None = None,
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> list[str]:
    """Run one stage from cached upstream artifacts.

    Args:
        stage: The stage.
        profile: The profile whose artifacts are read.
        force: Make it again even if it is there.
        overrides: Recipe values to change, one per line, such as dpd.beta=0.2.
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    name = stage.value if isinstance(stage, Enum) else str(stage)
    selection = Selection(only=name, force=force)
    plan = plan_run(file, str(getattr(profile, "value", profile)), overrides or [], store, selection)
    _show_plan(plan)
    return _execute(plan, store).executed


def cache_directory(store: str) -> Path:
    """Return where downloads, remote artifacts and work of this store are kept on this machine."""
    local = Path(store) if "://" not in store else Path(DEFAULT_STORE)
    return (local / ".cache").absolute()


def plan_run(file: str, profile: str, overrides: list[str], store: str, selection: Selection) -> Plan:
    """Load the recipe and plan it against the store."""
    loaded = load_recipe(Path(file), profile=profile, overrides=overrides)
    return make_plan(loaded, Store(store, cache_directory(store)), selection)


def _show_plan(plan: Plan) -> None:
    log = get_run_logger()
    for row in plan_rows(plan):
        log.info("%-7s %-26s %s", row["action"], row["stage"], row["why"])
    create_markdown_artifact(plan_markdown(plan), key="plan", description="What runs, what is reused, and why")


def _execute(plan: Plan, store: str) -> RunResult:
    """Run the plan and report what was made, also when a stage failed."""
    started = time.monotonic()
    try:
        result = run_plan(plan, store=store, cache=cache_directory(store))
    except RunFailedError as error:
        _finish(plan, error.result, store, time.monotonic() - started)
        raise
    _finish(plan, result, store, time.monotonic() - started)
    return result


def _finish(plan: Plan, result: RunResult, store: str, seconds: float) -> None:
    opened = Store(store, cache_directory(store))
    manifests = {name: opened.open(reference)[0] for name, reference in result.references.items()}
    rows = summary_rows(plan, manifests, result.executed)
    create_table_artifact([dict(row) for row in rows], key="summary", description="Every stage: before and after")
    facts = RunFacts(result.executed, seconds, result.failures, result.not_started)
    page = write_run_report(plan, manifests, opened, facts, run_id=str(flow_run.id or "local"))
    get_run_logger().info("report: %s", page)
