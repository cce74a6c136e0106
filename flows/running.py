"""Run a plan: submit its stages as Prefect tasks in dependency order and name what failed."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.exceptions import CancelledRun, CrashedRun, FailedRun, UnfinishedRun
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.utilities.annotations import quote

from flows.gpus import visible_gpus
from nanbeige_core.artifacts.leases import hold_lease
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.errors import StageError, StageInterruptedError
from nanbeige_core.launch.orders import make_order
from nanbeige_core.recipe.plan import Plan, PlannedStage
from tasks.core_slots import CORE_SLOTS
from tasks.hand_off import StageCall, configured, reused
from tasks.registry import TASKS
from tasks.workers import WORKERS


class RunFailedError(StageError):
    """Report the stages of a run that failed; `result` holds what was made all the same."""

    def __init__(self, message: str, result: "RunResult") -> None:
        super().__init__(message)
        self.result = result


class RunStoppedError(RunFailedError, StageInterruptedError):
    """Report a run whose stages did not fail: they were told to stop, and wait at their resume points."""


@dataclass
class RunResult:
    """References of every stage that has an artifact now, which stages executed, and what became of the others."""

    references: dict[str, ArtifactRef] = field(default_factory=dict)
    executed: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    not_started: list[str] = field(default_factory=list)


def run_plan(plan: Plan, *, store: str, cache: Path) -> RunResult:
    """Submit the plan's selected stages and wait for all; independent branches go on when one fails.

    Raises RunFailedError naming each failed stage with its last log lines, what was not started, and how to resume.
    """
    result = RunResult(executed=[planned.name for planned in plan.to_run])
    lease = hold_lease(Store(store, cache), [planned.address for planned in plan.stages.values()])
    with lease, WORKERS.opened((planned.stage.spec.uses, planned.stage.runtime) for planned in plan.to_run):
        futures = _submit(plan, result, store=store, cache=cache)
        _wait_for(list(futures.values()))
    _collect(plan, futures, result)
    return result


def _submit(plan: Plan, result: RunResult, *, store: str, cache: Path) -> "dict[str, PrefectFuture[Any]]":
    futures: dict[str, PrefectFuture[Any]] = {}
    for planned in plan.stages.values():
        if planned.action == "SKIP" or planned.stage.adopted:
            if planned.reference is not None:
                result.references[planned.name] = planned.reference
            continue
        order = make_order(planned)
        call = StageCall(order=order, store=store, cache=str(cache), cores=plan.recipe.cores, gpus=visible_gpus())
        upstream = set(planned.stage.inputs.values()) & set(futures)
        inputs = {
            name: _given(planned, plan.stages[other], futures.get(other), result)
            for name, other in planned.stage.inputs.items()
        }
        before = [futures[name] for name in sorted(upstream)]
        if planned.action == "HIT" and planned.reference is not None:
            futures[planned.name] = reused(call, planned.reference).submit(wait_for=before, **inputs)
            continue
        task = configured(TASKS[planned.stage.spec.uses], call)
        # quoted: there is no future to look for in it
        futures[planned.name] = task.submit(call=quote(call), wait_for=before, **inputs)
    return futures


def _given(
    planned: PlannedStage, upstream: PlannedStage, future: "PrefectFuture[Any] | None", result: RunResult
) -> Any:
    """Return an input of a stage: what its upstream stage will return, or the reference that is known already.

    A reused stage reads no input, and for each future among its arguments Prefect would ask the server.
    """
    if future is None:
        return result.references.get(upstream.name)
    return upstream.reference if planned.action == "HIT" and upstream.reference is not None else future


def _wait_for(futures: list["PrefectFuture[Any]"]) -> None:
    """Wait for all stages; when the run is stopped, stop them at their resume points first.

    A signal reaches the main thread only: the threads that wait for stages would start further ones, and a stage whose
    parent dies is killed without writing its resume point.
    """
    try:
        wait(futures)
    except BaseException:
        CORE_SLOTS.close()
        WORKERS.stop()
        raise


def _collect(plan: Plan, futures: dict[str, "PrefectFuture[Any]"], result: RunResult) -> None:
    failures, not_started = result.failures, result.not_started
    for name, future in futures.items():
        state = future.state
        if state.is_completed():
            result.references[name] = future.result()
        elif state.is_pending():
            not_started.append(name)
        else:
            failures[name] = failure_message(future)
    if not failures and not not_started:
        return
    log = get_run_logger()
    for name, message in failures.items():
        log.error("%s: %s", name, message)
    resume = f"nanbeige run --from {next(iter(failures), '')} --profile {plan.recipe.profile}"
    resume += "".join(f" --set {text}" for text in plan.recipe.overrides)
    result.executed = [name for name in result.executed if name in result.references]
    stopped = bool(failures) and all(_was_stopped(futures[name]) for name in failures)
    raise (RunStoppedError if stopped else RunFailedError)(
        "\n\n".join(failures.values())
        + (f"\n\nNot started, since they depend on it: {', '.join(not_started)}." if not_started else "")
        + f"\nResume with: {resume}",
        result,
    )


def _was_stopped(future: "PrefectFuture[Any]") -> bool:
    return isinstance(future.result(raise_on_failure=False), StageInterruptedError)


def failure_message(future: "PrefectFuture[Any]") -> str:
    """Return why a task failed, in the words of its own error where it has one."""
    try:
        future.result()
    except (FailedRun, CrashedRun, CancelledRun, UnfinishedRun) as error:
        return f"{type(error).__name__}: {error}"
    except Exception as error:  # the task's own error, already complete
        return str(error)
    return "ended without a result"
