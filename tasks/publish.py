"""What a running stage shows in the Prefect UI: progress, its report, its numbers, and a link to the whole page."""

import re
import time
from pathlib import Path
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.variables import Variable

from nanbeige_core.artifacts.manifest import Manifest
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Progress
from nanbeige_core.report.stage_report import describe_gain
from tasks.server_gone import spared

REPORTS_VARIABLE = "nanbeige_reports"
"""Prefect variable in which `up` says where it serves a store's reports: {"root": folder, "url": address}."""

_UPDATE_SECONDS = 2.0
_AGAIN_SECONDS = 60.0


def artifact_key(*parts: str) -> str:
    """Return a Prefect artifact key: lower-case letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def start_progress(stage: str) -> Progress:
    """Create the stage's progress artifact and return the function that moves it.

    A server that does not answer is asked again a minute later; the stage does not wait for it.
    """
    created: list[UUID] = []
    with spared(f"the progress of {stage}"):
        made = create_progress_artifact(0.0, key=artifact_key("progress", stage), description=f"{stage}: starting")
        assert isinstance(made, UUID)
        created.append(made)
    due = [0.0]

    def move(fraction: float, text: str) -> None:
        now = time.monotonic()
        if not created or (now < due[0] and fraction < 1):
            return
        due[0] = now + _AGAIN_SECONDS
        with spared(f"the progress of {stage}"), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            update_progress_artifact(created[0], progress=100 * fraction, description=f"{stage}: {text}")
            due[0] = now + _UPDATE_SECONDS

    return move


def publish_report(manifest: Manifest, store: Store) -> None:
    """Show on the stage's task run: its report, its numbers as a table, and a link to the page in the artifact."""
    stage, outcome = manifest.stage, manifest.outcome
    folder = store.local_path(manifest)
    path = folder / "report.md"
    text = path.read_text(encoding="utf-8") if path.exists() else outcome.summary
    create_markdown_artifact(
        f"{text}\n\nArtifact: `{store.url}/{manifest.reference.address}`\n",
        key=artifact_key("report", stage),
        description=outcome.summary,
    )
    numbers = {"seconds": round(manifest.seconds, 1), "tokens": outcome.tokens, **outcome.counts, **outcome.metrics}
    create_table_artifact(
        [{"name": name, "value": value} for name, value in numbers.items()],
        key=artifact_key("numbers", stage),
        description=describe_gain(outcome.gain) if outcome.gain else f"{stage}: counts and metrics",
    )
    publish_link(
        folder / "report.html",
        key=artifact_key("page", stage),
        text=f"Report of {stage}",
        description=f"{stage}: the report as a page of its own",
    )


def publish_link(page: Path | str, *, key: str, text: str, description: str) -> None:
    """Link to an HTML page: a URL as it is, a file through the server of `up` where one runs, else as a file."""
    link = str(page) if "://" in str(page) else _address(Path(page))
    create_link_artifact(link=link, link_text=text, key=key, description=description)


def _address(page: Path) -> str:
    served = Variable.get(REPORTS_VARIABLE, default=None)
    if isinstance(served, dict) and page.is_relative_to(str(served["root"])):
        return f"{served['url']}/{page.relative_to(str(served['root'])).as_posix()}"
    return page.absolute().as_uri()
