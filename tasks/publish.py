"""What a running stage shows in the Prefect UI: progress, and its report as a markdown artifact."""

import re
import time
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Progress

_UPDATE_SECONDS = 2.0


def artifact_key(*parts: str) -> str:
    """Return a Prefect artifact key: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def start_progress(stage: str) -> Progress:
    """Create the stage's progress artifact and return the function that moves it."""
    identifier = create_progress_artifact(0.0, key=artifact_key("progress", stage), description=f"{stage}: starting")
    assert isinstance(identifier, UUID)
    last = [0.0]

    def move(fraction: float, text: str) -> None:
        now = time.monotonic()
        if now - last[0] >= _UPDATE_SECONDS or fraction >= 1:
            last[0] = now
            update_progress_artifact(identifier, progress=100 * fraction, description=f"{stage}: {text}")

    return move


def publish_report(manifest: Manifest, store: Store) -> None:
    """Show the stage's report on its task run, with where the artifact lies."""
    path = store.local_path(manifest) / "report.md"
    text = path.read_text(encoding="utf-8") if path.exists() else manifest.outcome.summary
    create_markdown_artifact(
        f"{text}\n\nArtifact: `{store.url}/{manifest.reference.address}`\n",
        key=artifact_key("report", manifest.stage),
        description=manifest.outcome.summary,
    )
