"""Execute one planned stage: single flight, resume, launch, seal.

The parent never trusts an exit status alone: an artifact exists only when the worker wrote an outcome and the files
its kind requires are there.
"""

import errno
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nanbeige_core.artifacts.kinds import LAYOUTS
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.references import ArtifactRef
from nanbeige_core.artifacts.store import Store, write_error
from nanbeige_core.contract import Outcome, Progress, Runtime
from nanbeige_core.errors import ArtifactError, StageError, StageInterruptedError
from nanbeige_core.launch.damage import drop_damaged
from nanbeige_core.launch.job_file import PREEMPTED, InputFile, JobFile, read_json, read_outcome, write_json
from nanbeige_core.launch.prefork import WorkerProcess
from nanbeige_core.launch.start import start_worker
from nanbeige_core.launch.worker import run_here, used_resources
from nanbeige_core.redaction import redact
from nanbeige_core.stages import STAGES

_POLL_SECONDS = 0.1
_LOG_LINES = 25
_STOPPED = (PREEMPTED, -signal.SIGTERM)
_LEAST_ROOM = 1 << 16
_PACKAGES = ("torch", "megatron-core", "transformers", "tokenizers", "prefect", "numpy", "pyarrow", "reasoning-gym")


@dataclass(frozen=True)
class Order:
    """Everything needed to make (or find) one artifact, as plain picklable data."""

    stage: str
    uses: str
    identity: dict[str, Any]
    fingerprint: str
    config: dict[str, Any]
    runtime: dict[str, Any]
    forced: bool = False


@dataclass(frozen=True)
class Made:
    """The artifact of an order and whether it was made now or found."""

    manifest: Manifest
    executed: bool


def execute(
    order: Order,
    inputs: dict[str, ArtifactRef],
    store: Store,
    *,
    progress: Progress = lambda fraction, text: None,
    log: Callable[[str], None] = lambda line: None,
    start: Callable[[JobFile], WorkerProcess] | None = None,
    gpus: tuple[str, ...] = (),
) -> Made:
    """Return the artifact of `order`, making it if it is not in the store.

    Two processes at one key: the second waits and then finds the first one's artifact. Raises ArtifactError for a
    missing, corrupt or wrongly typed input, StageError when the stage fails, StageInterruptedError when it was stopped.
    `start` starts the worker process; by default a new interpreter. `gpus` are those its ranks may see, named as in
    CUDA_VISIBLE_DEVICES; by default all.
    """
    check_inputs(order, inputs)
    # what is replaced is told by identity, not by its age: clocks jump, and differ between machines
    replaced = store.find(order.stage, order.fingerprint) if order.forced else None
    with store.lock(order.stage, order.fingerprint):
        manifest = store.find(order.stage, order.fingerprint)
        if manifest is not None and manifest != replaced:
            log(f"{order.stage}: found {manifest.reference.address}")
            return Made(manifest, executed=False)
        sealed = None if order.forced else store.publish_sealed(order.stage, order.fingerprint)
        if sealed is not None:
            log(f"{order.stage}: published {sealed.reference.address}, which an earlier run had finished")
            return Made(sealed, executed=True)
        return Made(_make(order, inputs, store, progress, log, start or start_worker, gpus), executed=True)


def check_inputs(order: Order, inputs: dict[str, ArtifactRef]) -> None:
    """Raise ArtifactError when an input's type is not the one the stage consumes."""
    spec = STAGES[order.uses]
    if spec.compares:
        return
    for name, reference in inputs.items():
        expected = spec.consumes.get(name) or spec.further
        if reference.kind != expected:
            raise ArtifactError(
                f"stage {order.stage}: input {name} is {reference.address}, a {reference.kind}; "
                f"{order.uses} consumes a {expected} there. Correct `in.{name}` in the recipe."
            )


def _make(
    order: Order,
    inputs: dict[str, ArtifactRef],
    store: Store,
    progress: Progress,
    log: Callable[[str], None],
    start: Callable[[JobFile], WorkerProcess],
    gpus: tuple[str, ...],
) -> Manifest:
    started = datetime.now(UTC)
    clock = time.monotonic()
    work = store.work_directory(order.stage, order.fingerprint)
    if order.forced:
        shutil.rmtree(work, ignore_errors=True)
    file = _job_file(order, inputs, store, work, gpus)
    runtime = Runtime.model_validate(order.runtime)
    damaged = drop_damaged(work)
    if damaged:
        log(f"{order.stage}: an earlier attempt left {', '.join(damaged)} damaged; made again")
    attempt = partial(_attempt, file, runtime, progress, log, start)
    status = _attempts(attempt, file.stage, runtime.restarts, log)
    if damaged and status not in (0, *_STOPPED):
        log(f"{order.stage}: failed on what was left; made from the beginning")
        shutil.rmtree(work)
        status = _attempts(attempt, file.stage, runtime.restarts, log)
    outcome = read_outcome(file.control)
    if status != 0 or outcome is None:
        raise _failure(order, file, status)
    draft = _draft(order, file, inputs, outcome, started.isoformat(), time.monotonic() - clock)
    return store.seal(work, draft)


def _attempts(attempt: Callable[[], int], stage: str, restarts: int, log: Callable[[str], None]) -> int:
    status = attempt()
    for number in range(restarts):
        if status in (0, *_STOPPED):
            break
        log(f"{stage}: lost with status {status}; started again from its newest resume point ({number + 1})")
        status = attempt()
    return status


def _attempt(
    file: JobFile,
    runtime: Runtime,
    progress: Progress,
    log: Callable[[str], None],
    start: Callable[[JobFile], WorkerProcess],
) -> int:
    _prepare_control(file)
    if runtime.launcher == "inline":
        status = run_here(file)
        write_json(file.control / "resources.json", used_resources())
        return status
    return _run_process(start(file), file, runtime, progress, log)


def _job_file(order: Order, inputs: dict[str, ArtifactRef], store: Store, work: Path, gpus: tuple[str, ...]) -> JobFile:
    opened: dict[str, InputFile] = {}
    for name, reference in inputs.items():
        manifest, path = store.open(reference)
        opened[name] = InputFile(
            kind=manifest.kind,
            fingerprint=manifest.fingerprint,
            path=str(path),
            counts=manifest.outcome.counts,
            metrics=manifest.outcome.metrics,
        )
    return JobFile(
        stage=order.stage,
        uses=order.uses,
        config=order.config,
        runtime=Runtime.model_validate(order.runtime),
        inputs=opened,
        work=str(work),
        cache=str(store.cache),
        gpus=gpus,
    )


def _prepare_control(file: JobFile) -> None:
    """Keep resume state, drop what an earlier attempt left in the control folder."""
    try:
        shutil.rmtree(file.control, ignore_errors=True)
        file.control.mkdir(parents=True)
        write_json(file.path, file.model_dump(mode="json"))
    except OSError as error:
        raise write_error(error, f"stage {file.stage} cannot write its work directory {file.work}") from error


def _run_process(
    child: WorkerProcess, file: JobFile, runtime: Runtime, progress: Progress, log: Callable[[str], None]
) -> int:
    try:
        return _wait(child, file, runtime, progress, log)
    finally:
        _stop(child, runtime.stop_seconds)


def _wait(
    child: WorkerProcess,
    file: JobFile,
    runtime: Runtime,
    progress: Progress,
    log: Callable[[str], None],
) -> int:
    deadline = time.monotonic() + runtime.timeout_seconds if runtime.timeout_seconds else None
    last: Any = None
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        current = read_json(file.control / "progress.json")
        if current and current != last:
            last = current
            progress(current["fraction"], current["text"])
        if deadline and time.monotonic() > deadline:
            log(f"{file.stage}: stopped after {runtime.timeout_seconds:.0f} s (runtime.timeout_seconds)")
            _stop(child, runtime.stop_seconds)
            return PREEMPTED
    return child.wait()


def _stop(child: WorkerProcess, seconds: float) -> None:
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def last_lines(path: Path, count: int = _LOG_LINES) -> str:
    """Return the last lines of a log file, empty when there is none."""
    if not path.exists():
        return ""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def _failure(order: Order, file: JobFile, status: int) -> StageError:
    error = read_json(file.control / "error.json")
    if status in _STOPPED and not error:
        return StageInterruptedError(
            f"stage {order.stage} was stopped before it finished; its resume point in {file.work} is kept. "
            "Run the same command again to go on."
        )
    told = error["message"] if error else ""
    # a worker on a full disk cannot even write down what went wrong
    if f"[Errno {errno.ENOSPC}]" in told or (not error and shutil.disk_usage(file.work).free < _LEAST_ROOM):
        return StageError(
            f"stage {order.stage} failed: the disk is full. Nothing half-written is served and finished work is kept; "
            f"free space below {file.work}, then run the same command again. {told}".rstrip()
        )
    what = redact(f"{error['type']}: {error['message']}") if error else f"its process ended with status {status}"
    tail = redact(last_lines(file.log))
    return StageError(
        f"stage {order.stage} failed: {what}\n"
        + (f"--- last log lines ({file.log})\n{tail}\n---\n" if tail else "")
        + f"Finished work is kept. After mending the cause, `nanbeige run --from {order.stage}` goes on from here."
    )


def _draft(
    order: Order, file: JobFile, inputs: dict[str, ArtifactRef], outcome: Outcome, started: str, seconds: float
) -> Manifest:
    spec = STAGES[order.uses]
    return Manifest(
        kind=spec.produces,
        schema_version=LAYOUTS[spec.produces].schema_version,
        stage=order.stage,
        uses=order.uses,
        fingerprint=order.fingerprint,
        identity=order.identity,
        inputs=dict(inputs),  # type: ignore[arg-type]
        runtime=order.runtime,
        files={},
        digest="0" * 64,
        outcome=outcome,
        code=_code(spec.version),
        packages=_packages(),
        started=started,
        seconds=round(seconds, 3),
        resources=read_json(file.control / "resources.json") or {},
    )


def _code(stage_version: int) -> dict[str, str]:
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"
    return {"git_commit": commit, "stage_version": str(stage_version)}


def _packages() -> dict[str, str]:
    found: dict[str, str] = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
