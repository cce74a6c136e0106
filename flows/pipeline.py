"""The flows a person triggers: the full recipe, and one stage of it."""

import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner

from flows.loading import load
from flows.parameters import ALL, RECIPE_FILE, override_lines, stage_or_none
from flows.plain_log import hide_tracebacks
from flows.running import RunFailedError, RunResult, run_plan
from nanbeige_core.artifacts.store import Store
from nanbeige_core.recipe.plan import Plan, Selection, make_plan
from nanbeige_core.report.plan_report import plan_markdown, plan_rows, plan_sentence
from nanbeige_core.report.run_report import RunFacts, summary_markdown, write_run_report
from tasks.publish import publish_link
from tasks.server_gone import spared

DEFAULT_STORE = "store"
_WORKERS = 48  # more than the number of stages: a thread that waits for cores or a lock must not block another stage


_WORDS = {"stage": "stage", "only": "stage", "start_from": "from", "until": "until"}


def _run_name() -> str:
    """Say in the list of runs what each one is: profile, which part of the recipe, and whether it only plans."""
    values: dict[str, Any] = flow_run.parameters
    part = [f"{word} {values[name]}" for name, word in _WORDS.items() if values.get(name, ALL) not in (ALL, "")]
    plan_only = ["plan only"] if values.get("plan_only") else []
    return " · ".join([str(values.get("profile", "")), ", ".join(part) or "all stages", *plan_only])


@flow(name="recipe", flow_run_name=_run_name, task_runner=ThreadPoolTaskRunner(max_workers=_WORKERS))  # type: ignore[arg-type]
def recipe(
    profile: str = "laptop",
    start_from: str = ALL,
    until: str = ALL,
    only: str = ALL,
    force: bool = False,
    plan_only: bool = False,
    seed: int | None = None,
    overrides: str | list[str] = "",
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> list[str]:
    """Run the recipe, or the chosen part of it. What is already in the store is not made again.

    Give at most one of From, Until and Only. A run that fails or is stopped is gone on with by running it again.

    Args:
        profile: The size of everything: laptop, one GPU box, or the report's own.
        start_from: Run this stage and all that depend on it; what comes before must be in the store.
        until: Run this stage and all it depends on.
        only: Run this one stage; what comes before must be in the store.
        force: Make the selected stages again even if they are in the store.
        plan_only: Show which stages would run, and why, and stop there.
        seed: Another seed for every stage; empty keeps the recipe's own.
        overrides: Recipe values to change, one per line: stage.field=value, for example dpd.beta=0.2
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    selection = Selection(stage_or_none(start_from), stage_or_none(only), stage_or_none(until), force)
    return _run(file, profile, override_lines(overrides, seed), store, selection, plan_only=plan_only)


@flow(name="recipe", flow_run_name=_run_name, task_runner=ThreadPoolTaskRunner(max_workers=_WORKERS))  # type: ignore[arg-type]
def stage(
    stage: str,
    profile: str = "laptop",
    force: bool = True,
    plan_only: bool = False,
    seed: int | None = None,
    overrides: str | list[str] = "",
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> list[str]:
    """Run one stage on artifacts that are already in the store.

    Args:
        stage: The stage to run.
        profile: The profile whose artifacts are read and made.
        force: Make the artifact again even if it is in the store.
        plan_only: Show what would run, and why, and stop there.
        seed: Another seed for every stage, upstream included; empty keeps the recipe's own.
        overrides: Recipe values to change, one per line: stage.field=value, for example dpd.beta=0.2
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    selection = Selection(only=stage, force=force)
    return _run(file, profile, override_lines(overrides, seed), store, selection, plan_only=plan_only)


def _run(
    file: str, profile: str, overrides: list[str], store: str, selection: Selection, *, plan_only: bool
) -> list[str]:
    plan = plan_run(file, profile, overrides, store, selection)
    _show_plan(plan)
    if plan_only:
        return [planned.name for planned in plan.to_run]
    return _execute(plan, store).executed


def cache_directory(store: str) -> Path:
    """Return where downloads, remote artifacts and work of this store are kept on this machine."""
    local = Path(store) if "://" not in store else Path(DEFAULT_STORE)
    return (local / ".cache").absolute()


def plan_run(file: str, profile: str, overrides: list[str], store: str, selection: Selection) -> Plan:
    """Load the recipe and plan it against the store."""
    loaded = load(Path(file), profile=profile, overrides=overrides)
    return make_plan(loaded, Store(store, cache_directory(store)), selection)


def _show_plan(plan: Plan) -> None:
    log = get_run_logger()
    rows = plan_rows(plan)
    for row in rows:
        if row["action"] in ("RUN", "RESUME"):
            log.info("%-7s %-26s %s", row["action"], row["stage"], row["why"])
    reused = [row["stage"] for row in rows if row["action"] == "HIT"]
    log.info("%s", plan_sentence(plan) + (f". Reused: {', '.join(reused)}" if reused else ""))
    with spared("the plan"):
        create_markdown_artifact(plan_markdown(plan), key="plan", description=plan_sentence(plan))


def _execute(plan: Plan, store: str) -> RunResult:
    """Run the plan and report what was made, also when a stage failed."""
    started = time.monotonic()
    hide_tracebacks()
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
    summary = summary_markdown(plan, manifests, result.executed)
    with spared("the summary"):
        create_markdown_artifact(summary, key="summary", description="Every stage: before and after")
    facts = RunFacts(result.executed, seconds, result.failures, result.not_started)
    page = write_run_report(plan, manifests, opened, facts, run_id=str(flow_run.id or "local"))
    if result.executed or result.failures:  # a run of nothing has no page of its own
        with spared("the link to the run's page"):
            publish_link(
                page, key="run-report", text="The whole run on one page", description="The whole run on one page"
            )
    get_run_logger().info("report: %s", page)
