"""The shape of `pipelines.yaml`, validated by pydantic: unknown keys are refused with the nearest known name."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageEntry(_Section):
    """One stage of the recipe: which kind of stage, on which inputs, with which values."""

    uses: str = Field("", description="Stage type; the stage's own name when empty.")
    inputs: dict[str, str] = Field(default_factory=dict, alias="in", description="Input name -> stage name.")
    config: dict[str, Any] = Field(default_factory=dict, description="Identity values.")
    runtime: dict[str, Any] = Field(default_factory=dict, description="Execution values, never fingerprinted.")
    adopted: str = Field(
        "",
        pattern=r"^$|^([a-z0-9_]+/)?[0-9a-f]{16,64}$",
        description="Fingerprint of an artifact that stands in for the stage; `nanbeige adopt` prints it.",
    )


class ProfileEntry(_Section):
    """Values that one profile overrides; it never adds or removes stages."""

    title: str
    cores: int = Field(2, ge=1, description="Ranks times threads that may run at once on this machine.")
    device: str = Field("h100-sxm", description="Device of the rate card that `price` takes for one rank.")
    shared: dict[str, Any] = Field(default_factory=dict)
    runtime: dict[str, Any] = Field(default_factory=dict, description="Execution defaults of every stage.")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)


class SweepArm(_Section):
    """One arm of a sweep: a name and the overrides that make it."""

    name: str
    set: list[str] = Field(default_factory=list)


class SweepEntry(_Section):
    """An ablation: arms times seeds, compared at one stage's metric."""

    title: str
    profile: str = "laptop"
    until: str
    metric: str = Field(description="`stage.metric` of the artifact that is compared.")
    arms: list[SweepArm] = Field(min_length=1)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)


class ScheduleEntry(_Section):
    """A cron line for a sweep or the full recipe."""

    cron: str = Field(description="Five fields: minute, hour, day of month, month, day of week.")
    timezone: str = Field("UTC", description="IANA name of the zone the cron line is read in.")
    sweep: str = Field("", description="The sweep to run.")
    profile: str = Field("", description="Without a sweep: the profile the full recipe runs under.")


class RecipeFile(_Section):
    """The whole file."""

    recipe: str
    version: int = Field(1, ge=1, le=1)
    shared: dict[str, Any] = Field(default_factory=dict, description="Values that several stages interpolate.")
    runtime: dict[str, Any] = Field(default_factory=dict)
    stages: dict[str, StageEntry] = Field(min_length=1)
    profiles: dict[str, ProfileEntry] = Field(min_length=1)
    sweeps: dict[str, SweepEntry] = Field(default_factory=dict)
    schedules: dict[str, ScheduleEntry] = Field(default_factory=dict)
