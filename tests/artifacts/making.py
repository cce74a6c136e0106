"""Make small artifacts of the right layout for tests of the store and the plan."""

from pathlib import Path

from nanbeige_core.artifacts.kinds import LAYOUTS, Kind
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome
from nanbeige_core.recipe.plan import PlannedStage


def fill_layout(work: Path, kind: Kind) -> None:
    for pattern in LAYOUTS[kind].required:
        path = work / pattern.replace("*", "part-0")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{kind} {pattern}".encode())


def draft(stage: str, fingerprint: str, kind: Kind, identity: dict[str, object] | None = None) -> Manifest:
    return Manifest(
        kind=kind,
        schema_version=1,
        stage=stage,
        uses=stage,
        fingerprint=fingerprint,
        identity=identity or {"config": {}, "inputs": {}},
        inputs={},
        runtime={},
        files={},
        digest="0" * 64,
        outcome=Outcome(summary="made for a test"),
        code={},
        packages={},
        started="2026-01-01T00:00:00+00:00",
        seconds=0.1,
    )


def seal(store: Store, stage: str, fingerprint: str, kind: Kind) -> Manifest:
    work = store.work_directory(stage, fingerprint)
    fill_layout(work, kind)
    return store.seal(work, draft(stage, fingerprint, kind))


def seal_stage(store: Store, planned: PlannedStage) -> Manifest:
    work = store.work_directory(planned.name, planned.fingerprint)
    kind = planned.stage.spec.produces
    fill_layout(work, kind)
    return store.seal(work, draft(planned.name, planned.fingerprint, kind, planned.identity))
