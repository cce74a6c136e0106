"""How a stage becomes a Prefect task: cache key, verified hand-off, execution.

Prefect is given the fingerprint as its cache key and never hashes an object. What it stores as a result is a small
typed reference; reading one back checks that the artifact is really there, so a deleted or damaged artifact is a
cache miss without any further code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.serializers import Serializer
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from nanbeige_core.artifacts.references import ArtifactRef, parse_reference
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Runtime
from nanbeige_core.errors import ArtifactError
from nanbeige_core.launch.execute import Made, Order, execute
from nanbeige_core.stages import STAGES
from tasks.core_slots import CORE_SLOTS
from tasks.gpu_slots import hold_gpus
from tasks.server_gone import spared
from tasks.workers import WORKERS


class StageCall(BaseModel):
    """What a stage task is called with, besides its typed inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Order
    store: str
    cache: str
    cores: int = 2
    gpus: tuple[str, ...] = ()

    def open_store(self) -> Store:
        """Open the artifact store."""
        return Store(self.store, Path(self.cache))

    def run(self, **inputs: ArtifactRef | None) -> Any:
        """Execute the stage on its inputs inside the running task and return the artifact's reference."""
        from tasks.publish import publish_report, start_progress

        given = {name: reference for name, reference in inputs.items() if reference is not None}
        logger = get_run_logger()
        runtime = Runtime.model_validate(self.order.runtime)
        elsewhere = runtime.launcher in ("hosts", "slurm", "kubernetes")
        wanted = runtime.processes if runtime.launcher == "elastic" else 0  # the agent gives each rank a GPU
        with (
            CORE_SLOTS.hold(1 if elsewhere else runtime.processes * runtime.threads, self.cores),
            hold_gpus(wanted, self.gpus) as gpus,
        ):
            progress = start_progress(self.order.stage)
            made: Made = execute(
                self.order, given, self.open_store(), progress=progress, log=logger.info, start=WORKERS.start, gpus=gpus
            )
            progress(1.0, "done")
        logger.info("%s: %s in %.1f s", self.order.stage, made.manifest.reference.address, made.manifest.seconds)
        with spared(f"the report of {self.order.stage}"):
            publish_report(made.manifest, self.open_store())
        return made.manifest.reference


@dataclass
class StageKey(CachePolicy):
    """Use the stage's fingerprint as Prefect's cache key: `<stage>/<fingerprint16>.json`."""

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: dict[str, Any],
        flow_parameters: dict[str, Any],
        **kwargs: Any,
    ) -> str | None:
        """Return the key, or None (no caching) when the order forces a new execution."""
        order: Order = inputs["call"].order
        return None if order.forced else f"{order.stage}/{order.fingerprint[:16]}.json"


class ReferenceSerializer(Serializer):  # type: ignore[type-arg]
    """Store a task's result as its reference, and refuse to load one whose artifact cannot be served."""

    type: str = Field("artifact-reference", frozen=True)
    # a state that comes back from the server names the serializer by its type alone; the stage that reads such a
    # reference opens the artifact and checks it there
    store: str = ""
    cache: str = ""

    def dumps(self, obj: Any) -> bytes:
        """Encode a reference as JSON."""
        return obj.model_dump_json().encode()

    def loads(self, blob: bytes) -> Any:
        """Decode a reference and check its artifact; the error makes Prefect run the stage again."""
        import json

        reference = parse_reference(json.loads(blob))
        if self.store:
            Store(self.store, Path(self.cache)).open(reference)
        return reference


def stage_task(uses: str) -> Callable[[Callable[..., Any]], "Task[..., Any]"]:
    """Declare a function as the Prefect task of a stage type, cached by fingerprint."""
    spec = STAGES[uses]

    def wrap(function: Callable[..., Any]) -> "Task[..., Any]":
        declare: Callable[..., Any] = task  # its overloads do not cover a decorated function of any signature
        return declare(
            function,
            name=uses,
            description=f"{spec.title} ({spec.source})",
            cache_policy=StageKey(),
            persist_result=True,
        )

    return wrap


def reused(call: StageCall, reference: ArtifactRef) -> "Task[..., Any]":
    """Return the task of a stage whose artifact the plan found: it checks the artifact and hands its reference on.

    Its state is named Cached, as Prefect's own cache would name it, but there is no cache to ask: the plan has. Should
    the artifact be gone meanwhile, the stage is executed after all, on the inputs the task is given.
    """

    def serve(**inputs: ArtifactRef | None) -> Any:
        try:
            call.open_store().open(reference)
        except ArtifactError as error:
            get_run_logger().warning("%s Made again now.", error)
            return call.run(**inputs)
        return Completed(name="Cached", message="its artifact is in the store", data=reference)

    return Task(serve, name=call.order.stage, task_run_name=call.order.stage, cache_policy=NO_CACHE)


def configured(stage_function: "Task[..., Any]", call: StageCall) -> "Task[..., Any]":
    """Return the task under the stage's own name, with its result storage, serializer and retries."""
    return stage_function.with_options(
        name=call.order.stage,
        task_run_name=call.order.stage,
        retries=Runtime.model_validate(call.order.runtime).retries,
        result_storage=_result_storage(call),
        result_serializer=ReferenceSerializer(type="artifact-reference", store=call.store, cache=call.cache),
    )


def _result_storage(call: StageCall) -> Path:
    store = call.open_store()
    root = Path(store.root) if store.is_local else Path(call.cache)
    return root / ".results"
