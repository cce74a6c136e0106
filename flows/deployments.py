"""Deployments for the UI: the full recipe, one stage, and sweeps with their cron schedules."""

from pathlib import Path
from typing import Any

import yaml
from prefect import serve
from prefect.schedules import Cron

from flows.parameters import RECIPE_FILE, Profile, Sweep
from flows.pipeline import recipe, stage
from flows.sweep import sweep
from nanbeige_core.recipe.schema import ScheduleEntry


def serve_deployments(store: str) -> None:
    """Register `recipe/full`, `stage/one` and `sweep/nightly` and execute what is triggered, until interrupted."""
    absolute = store if "://" in store else str(Path(store).absolute())
    defaults = {"store": absolute, "file": str(RECIPE_FILE)}
    schedules = [
        Cron(entry.cron, parameters={"sweep": entry.sweep}, slug=name)
        for name, entry in _schedules().items()
        if entry.sweep
    ]
    serve(
        _flow(recipe).to_deployment("full", parameters={**defaults, "profile": next(iter(Profile)).value}),
        _flow(stage).to_deployment("one", parameters=defaults),
        _flow(sweep).to_deployment(
            "nightly",
            parameters={**defaults, "sweep": next(iter(Sweep)).value},
            schedules=schedules,
        ),
        limit=2,
    )


def _flow(function: Any) -> Any:
    """Return a flow under its real type, which the decorator's overloads lose for enum parameters."""
    return function


def _schedules() -> dict[str, ScheduleEntry]:
    tree = yaml.safe_load(RECIPE_FILE.read_text(encoding="utf-8")).get("schedules") or {}
    return {name: ScheduleEntry.model_validate(value) for name, value in tree.items()}
