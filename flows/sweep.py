"""Sweeps: arms times seeds of a recipe in one flow run, every common ancestor once, compared problem by problem."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.futures import PrefectFuture, wait
from prefect.logging import get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows.gpus import visible_gpus
from flows.parameters import RECIPE_FILE, override_lines
from flows.pipeline import DEFAULT_STORE, cache_directory
from flows.running import failure_message
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Runtime
from nanbeige_core.errors import StageError
from nanbeige_core.launch.execute import Order
from nanbeige_core.launch.orders import make_order
from nanbeige_core.recipe.configs.sweep import SUMMARY, FailedRun, input_name
from nanbeige_core.recipe.fingerprint import fingerprint, identity_values
from nanbeige_core.recipe.sweep_plan import SharedStage, SweepPlan, SweepRun, plan_sweep
from nanbeige_core.report.sweep_rows import describe_runs, describe_sharing, sweep_rows
from nanbeige_core.stages import STAGES
from tasks.hand_off import StageCall, configured
from tasks.publish import artifact_key
from tasks.registry import TASKS
from tasks.server_gone import spared
from tasks.workers import WORKERS

USES = "sweep_report"
_WORKERS = 512  # more than the stages of any sweep: one that waits for cores must not keep another from starting
_CAUSE_CHARACTERS = 300


class ArmsFailedError(StageError):
    """Report runs of a sweep that failed; `report` is the address of the comparison of the others."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


@dataclass
class SweepResult:
    """The measured artifact of every run that finished, and what ended the others."""

    artifacts: dict[str, ArtifactRef] = field(default_factory=dict[str, ArtifactRef])
    failures: list[FailedRun] = field(default_factory=list[FailedRun])


# the enum is the form's list; a recipe file of one's own has other sweeps, and plan_sweep names the nearest
@flow(name="sweep", task_runner=ThreadPoolTaskRunner(max_workers=_WORKERS), validate_parameters=False)  # type: ignore[arg-type]
def sweep(
    sweep: str,
    overrides: str | list[str] = "",
    plan_only: bool = False,
    cores: int = 0,
    file: str = str(RECIPE_FILE),
    store: str = DEFAULT_STORE,
) -> str:
    """Run every arm of a sweep, compare them, and return the address of the SweepReport.

    Args:
        sweep: Which sweep of the recipe file.
        overrides: Recipe values changed in every arm, one per line, for example dpd.beta=0.2
        plan_only: Show what would run and stop.
        cores: At most this many ranks times threads at once; 0 means as many as the profile has.
        file: The recipe file.
        store: Where artifacts are kept: a folder or any fsspec URL.
    """
    name, changes = sweep, override_lines(overrides)
    opened = Store(store, cache_directory(store))
    plan = plan_sweep(Path(file), name, opened, changes)
    rows = [dict(row) for row in sweep_rows(plan)]
    with spared("the sweep's plan"):
        create_table_artifact(rows, key="sweep-plan", description=f"{name}: {describe_sharing(plan)}")
    get_run_logger().info("%s: %s", name, describe_sharing(plan))
    if plan_only:
        return ""
    result = run_sweep(plan, store=store, cores=cores or plan.cores)
    reference = compare(plan, result, store=store)
    manifest, path = opened.open(reference)
    summary, text = manifest.outcome.summary, (path / SUMMARY).read_text(encoding="utf-8")
    with spared("the sweep's report"):
        create_markdown_artifact(text, key=artifact_key("sweep", name), description=summary)
    get_run_logger().info("%s: %s", reference.address, summary)
    if result.failures:
        raise ArmsFailedError(_describe_failures(plan, result, reference.address), reference.address)
    return reference.address


def run_sweep(plan: SweepPlan, *, store: str, cores: int) -> SweepResult:
    """Submit every distinct stage once and wait for all; a failure ends only the runs that need that stage."""
    stages = [shared.planned.stage for shared in plan.to_run]
    with WORKERS.opened((stage.spec.uses, stage.runtime) for stage in stages):
        futures = _submit(plan, store=store, cores=cores)
        wait(list(futures.values()))
    result = SweepResult()
    for run in plan.runs:
        _collect(plan, run, futures, result)
    return result


def _submit(plan: SweepPlan, *, store: str, cores: int) -> "dict[str, PrefectFuture[Any]]":
    futures: dict[str, PrefectFuture[Any]] = {}
    for key, shared in plan.stages.items():
        order = make_order(shared.planned)
        cache = str(cache_directory(store))
        call = StageCall(order=order, store=store, cache=cache, cores=cores, gpus=visible_gpus())
        task = configured(TASKS[order.uses], call).with_options(task_run_name=_task_name(plan, shared))
        futures[key] = task.submit(call=call, **{name: futures[upstream] for name, upstream in shared.inputs.items()})
    return futures


def compare(plan: SweepPlan, result: SweepResult, *, store: str) -> ArtifactRef:
    """Make the SweepReport of the runs that finished and return its reference.

    Raises StageError when no run finished.
    """
    if not result.artifacts:
        raise StageError(f"sweep {plan.name}: no run finished.\n{_list_failures(result)}")
    config = plan.report_config(result.failures)
    identity = {
        "stage": f"sweep-{plan.name}",
        "uses": USES,
        "version": STAGES[USES].version,
        "config": identity_values(config),
        "inputs": {name: reference.fingerprint for name, reference in sorted(result.artifacts.items())},
    }
    order = Order(
        stage=f"sweep-{plan.name}",
        uses=USES,
        identity=identity,
        fingerprint=fingerprint(identity),
        config=config.model_dump(mode="json"),
        runtime=Runtime.model_validate({}).model_dump(mode="json"),
    )
    call = StageCall(order=order, store=store, cache=str(cache_directory(store)), cores=plan.cores)
    return configured(TASKS[USES], call)(call=call, **result.artifacts)


def _collect(plan: SweepPlan, run: SweepRun, futures: dict[str, "PrefectFuture[Any]"], result: SweepResult) -> None:
    for planned in run.plan.selected:
        future = futures[planned.fingerprint]
        if not future.state.is_completed() and not future.state.is_pending():
            first_line = failure_message(future).splitlines()[0][:_CAUSE_CHARACTERS]
            result.failures.append(FailedRun(arm=run.arm, seed=run.seed, stage=planned.name, cause=first_line))
            return
    measured = futures[run.plan.stages[plan.entry.stage].fingerprint]
    result.artifacts[input_name(run.arm, run.seed)] = measured.result()


def _task_name(plan: SweepPlan, shared: SharedStage) -> str:
    # braces would be read as a template
    return f"{shared.planned.name} ({describe_runs(plan, shared)})".replace("{", "").replace("}", "")


def _list_failures(result: SweepResult) -> str:
    return "\n".join(f"  {item.arm}, seed {item.seed}: at {item.stage}: {item.cause}" for item in result.failures)


def _describe_failures(plan: SweepPlan, result: SweepResult, address: str) -> str:
    again = f"nanbeige sweep {plan.name}" + "".join(f" --set {text}" for text in plan.overrides)
    return (
        f"sweep {plan.name}: {len(result.failures)} of {len(plan.runs)} runs failed, the others are compared in "
        f"{address}.\n{_list_failures(result)}\nAfter mending the cause, `{again}` makes only what is missing."
    )
