"""Register something from outside as the artifact of a stage, so that the stages after it can use it.

Its fingerprint covers stage, format and content, never a path: the same content adopted twice, or on another
machine, is the same artifact, and what comes after it is found again.
"""

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanbeige_core.adopt.source import AdoptError, Source
from nanbeige_core.artifacts.kinds import LAYOUTS
from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Outcome
from nanbeige_core.recipe.adopted import ADOPTED
from nanbeige_core.recipe.fingerprint import fingerprint
from nanbeige_core.stages import StageSpec


def register(store: Store, stage: str, spec: StageSpec, source: Source) -> tuple[Manifest, bool]:
    """Seal a source as an artifact of `stage`; return its manifest and whether it was made now.

    Raises AdoptError when its files cannot be read or written.
    """
    identity: dict[str, Any] = {
        "stage": stage,
        "uses": spec.uses,
        "version": spec.version,
        "config": {},
        "inputs": {},
        ADOPTED: source.identity(),
    }
    key = fingerprint(identity)
    with store.lock(stage, key):
        found = store.find(stage, key)
        if found is not None:
            return found, False
        started, clock = datetime.now(UTC), time.monotonic()
        work = store.work_directory(stage, key)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            outcome = source.write(work)
            draft = _draft(stage, spec, key, identity, outcome)
            draft = draft.model_copy(update={"started": started.isoformat(), "seconds": time.monotonic() - clock})
            return store.seal(work, draft), True
        except OSError as error:
            raise AdoptError(f"adopting for {stage}: {error}. Nothing was registered.") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _draft(stage: str, spec: StageSpec, key: str, identity: dict[str, Any], outcome: Outcome) -> Manifest:
    return Manifest(
        kind=spec.produces,
        schema_version=LAYOUTS[spec.produces].schema_version,
        stage=stage,
        uses=spec.uses,
        fingerprint=key,
        identity=identity,
        inputs={},
        runtime={},
        files={},
        digest="0" * 64,
        outcome=outcome,
        code={"stage_version": str(spec.version)},
        packages={},
        started="",
        seconds=0.0,
    )


def copy_files(files: dict[str, Path], work: Path) -> None:
    """Copy named files into a work directory."""
    for name, path in files.items():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
