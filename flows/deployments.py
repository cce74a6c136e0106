"""What `up` puts on the Prefect server: work pool, core slots, zombie automation, deployments with their schedules.

Doing it again changes nothing that a person changed in the UI: a paused schedule stays paused, an added one stays.
"""

import shlex
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, GlobalConcurrencyLimitUpdate, WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.form import form_schema
from flows.parameters import ROOT
from flows.pipeline import recipe, stage
from flows.sweep import sweep
from flows.tied import tied_command
from nanbeige_core.recipe.schema import RecipeFile, ScheduleEntry
from tasks.core_slots import CORES_LIMIT

POOL = "local"
FLOW = "recipe"
_SILENT_SECONDS = 90  # three heartbeats
_ENDED = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))
_HEARTBEAT = "prefect.flow-run.heartbeat"


@dataclass(frozen=True)
class Deployment:
    """One entry of the UI's list of deployments."""

    name: str
    function: Any
    description: str
    schedules: dict[str, ScheduleEntry]

    @property
    def entrypoint(self) -> str:
        """Return where the flow is imported from."""
        return f"{self.function.__module__}.{self.function.__name__}"


def deployments(file: RecipeFile) -> list[Deployment]:
    """Return `recipe/full`, `recipe/stage` and, where the file has sweeps, `recipe/sweep`."""
    of_sweeps = {name: entry for name, entry in file.schedules.items() if entry.sweep}
    of_recipe = {name: entry for name, entry in file.schedules.items() if not entry.sweep}
    found = [
        Deployment("full", recipe, "The whole recipe, or a part of it; cached stages are reused.", of_recipe),
        Deployment("stage", stage, "One stage on cached upstream artifacts.", {}),
    ]
    if file.sweeps:
        found.append(Deployment("sweep", sweep, "An ablation: arms times seeds, compared on one metric.", of_sweeps))
    return found


@dataclass(frozen=True)
class WorkPool:
    """Where runs are executed: by a worker's own processes, or in pods made from a Kubernetes base job template."""

    name: str = POOL
    template: dict[str, Any] | None = None

    @property
    def type(self) -> str:
        """Return Prefect's name of the kind of worker."""
        return "process" if self.template is None else "kubernetes"

    @property
    def job_variables(self) -> dict[str, Any]:
        """Return what a deployment sets of the pool's template; an image knows its own command and folder."""
        return {"command": _command(), "working_dir": str(ROOT)} if self.template is None else {}


def register(
    file: RecipeFile,
    *,
    path: Path,
    store: str,
    cores: int,
    pool: WorkPool = WorkPool(),  # noqa: B008 (frozen)
) -> list[str]:
    """Create or refresh everything runs need on the server; return the deployments' names.

    Args:
        file: The recipe file; its names become the forms' enums, its schedules the deployments'.
        path: Where the recipe file lies; each run reads it again.
        store: Folder or URL of the artifacts, absolute.
        cores: How many cores all runs of this server may use at once.
        pool: The work pool, made if it is not there.
    """
    with get_client(sync_client=True) as client:
        _create_pool(client, pool)
        _set_core_slots(client, cores)
        _create_zombie_automation(client)
        flow_id = client.create_flow_from_name(FLOW)
        for deployment in deployments(file):
            _deploy(client, flow_id, deployment, file, {"file": str(path), "store": store}, pool)
    return [f"{FLOW}/{deployment.name}" for deployment in deployments(file)]


def _create_pool(client: SyncPrefectClient, pool: WorkPool) -> None:
    template = pool.template or ProcessWorker.get_default_base_job_template()
    try:
        client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=template))
    except ObjectAlreadyExists:
        return


def _set_core_slots(client: SyncPrefectClient, cores: int) -> None:
    client.upsert_global_concurrency_limit_by_name(CORES_LIMIT, cores)
    client.update_global_concurrency_limit(CORES_LIMIT, GlobalConcurrencyLimitUpdate(active=True))


def _create_zombie_automation(client: SyncPrefectClient) -> None:
    """Mark a run CRASHED whose process is gone: it has sent a heartbeat, and then neither another nor an end."""
    name = "runs whose process is gone"
    if client.read_automations_by_name(name):
        return
    client.create_automation(
        AutomationCore(
            name=name,
            description="A run that stops sending heartbeats is marked Crashed, so that it can be started again.",
            trigger=EventTrigger(
                match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
                for_each={"prefect.resource.id"},
                after={_HEARTBEAT},
                expect={_HEARTBEAT, *_ENDED},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=_SILENT_SECONDS),
            ),
            actions=[  # type: ignore[arg-type] (a list of one of the union's members)
                ChangeFlowRunState(
                    name=None,
                    state=StateType.CRASHED,
                    force=False,
                    message="Its process is gone. Finished stages are kept: press Retry, or run it again, to go on.",
                )
            ],
        )
    )


def _deploy(
    client: SyncPrefectClient,
    flow_id: Any,
    deployment: Deployment,
    file: RecipeFile,
    parameters: dict[str, Any],
    pool: WorkPool,
) -> None:
    name = f"{FLOW}/{deployment.name}"
    try:
        existing = client.read_deployment_by_name(name)
    except ObjectNotFound:
        paused, kept = False, []
    else:
        paused, kept = existing.paused, client.read_deployment_schedules(existing.id)
    client.create_deployment(
        flow_id=flow_id,
        name=deployment.name,
        description=deployment.description,
        entrypoint=deployment.entrypoint,
        pull_steps=[],
        work_pool_name=pool.name,
        job_variables=pool.job_variables,
        parameters=parameters,
        parameter_openapi_schema=form_schema(deployment.function, file),
        enforce_parameter_schema=True,
        paused=paused,
        schedules=_schedules(deployment, kept),
    )


def _command() -> str:
    """Return how the worker starts a run: as a process that ends when the worker does.

    It is killed, not asked: its server is gone as well then, and it would wait minutes for it.
    """
    return shlex.join(tied_command([sys.executable, "-m", "prefect.engine"], "KILL"))


def _schedules(deployment: Deployment, kept: list[Any]) -> list[DeploymentScheduleCreate]:
    """Return the recipe's schedules, each active as it was left in the UI, and those that were added in the UI."""
    active = {schedule.slug: schedule.active for schedule in kept if schedule.slug}
    added = [
        DeploymentScheduleCreate(schedule=schedule.schedule, active=schedule.active, parameters=schedule.parameters)
        for schedule in kept
        if not schedule.slug
    ]
    return added + [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=entry.cron, timezone=entry.timezone),
            slug=name,
            active=active.get(name, True),
            parameters={"sweep": entry.sweep} if entry.sweep else {"profile": entry.profile},
        )
        for name, entry in deployment.schedules.items()
    ]
