"""The shape of `pipelines.yaml`, validated by pydantic: unknown keys are refused with the nearest known name."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from nanbeige_core.errors import nearest

_NAME = r"^[a-z0-9][a-z0-9.-]*$"
"""Names that become part of addresses and input names."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StageEntry(_Section):
    """One stage of the recipe: which kind of stage, on which inputs, with which values."""

    uses: str = Field("", description="Stage type; the stage's own name when empty.")
    inputs: dict[str, str | None] = Field(
        default_factory=dict, alias="in", description="Input name -> stage name; null takes an input away."
    )
    config: dict[str, Any] = Field(default_factory=dict, description="Identity values.")
    runtime: dict[str, Any] = Field(default_factory=dict, description="Execution values, never fingerprinted.")
    when_read: bool = Field(
        False, description="Left out unless another stage reads it: a sweep's arm may, by `stage.in.<input>=<stage>`."
    )
    adopted: str = Field(
        "",
        pattern=r"^$|^([a-z0-9_]+/)?[0-9a-f]{16,64}$",
        description="Fingerprint of an artifact that stands in for the stage; `nanbeige adopt` prints it.",
    )


class ProfileEntry(_Section):
    """Values that one profile overrides; which stages run is said by the recipe, or by the chain it names."""

    title: str
    chain: str = Field("", description="The chain it runs instead of the recipe's stages; empty = the recipe's.")
    cores: int = Field(2, ge=1, description="Ranks times threads that may run at once on this machine.")
    device: str = Field("h100-sxm", description="Device of the rate card that `price` takes for one rank.")
    shared: dict[str, Any] = Field(default_factory=dict)
    runtime: dict[str, Any] = Field(default_factory=dict, description="Execution defaults of every stage.")
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)


class SweepArm(_Section):
    """One arm of a sweep: a name and the overrides that make it."""

    name: str = Field(pattern=_NAME)
    set: list[str] = Field(default_factory=list)
    seed_offset: int = Field(0, ge=0, description="Added to every seed; an arm that differs by it alone is an A/A arm.")


class SweepEntry(_Section):
    """An ablation: arms times seeds, compared problem by problem at one measure of one stage."""

    title: str
    profile: str = "laptop"
    metric: str = Field(
        pattern=r"^[^.]+\..+$", description="`stage.measure`: the stage that ends every arm and its records."
    )
    arms: list[SweepArm] = Field(min_length=2)
    baseline: str = Field("", description="The arm that all others are compared with; the first when empty.")
    seeds: list[NonNegativeInt] = Field(min_length=1, description="One run of every arm for each.")
    seed_fields: list[str] = Field(
        default_factory=lambda: ["shared.seed"],
        min_length=1,
        description="Values a seed sets; all else is shared.",
    )
    set: list[str] = Field(default_factory=list, description="Overrides of every arm.")

    @property
    def stage(self) -> str:
        """Return the stage that ends every arm."""
        return self.metric.partition(".")[0]

    @property
    def measure(self) -> str:
        """Return the name of the per-problem records that are compared."""
        return self.metric.partition(".")[2]

    @property
    def baseline_name(self) -> str:
        """Return the name of the arm that the others are compared with."""
        return self.baseline or self.arms[0].name

    @model_validator(mode="after")
    def validate_names(self) -> Self:
        """Refuse arms or seeds given twice, and a baseline that is no arm."""
        names = [arm.name for arm in self.arms]
        seeds = [str(seed) for seed in self.seeds]
        for what, values in (("arm", names), ("seed", seeds)):
            repeated = [value for value in values if values.count(value) > 1]
            if repeated:
                raise ValueError(f"{what} {repeated[0]} is given twice; each is one column of the comparison.")
        if self.baseline and self.baseline not in names:
            raise ValueError(f"baseline {self.baseline!r} is no arm; {nearest(self.baseline, names)}")
        return self


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
    chains: dict[str, dict[str, StageEntry]] = Field(
        default_factory=dict[str, dict[str, StageEntry]],
        description="Other stages and edges, such as those that begin with an existing model; a profile names one.",
    )
    profiles: dict[str, ProfileEntry] = Field(min_length=1)
    sweeps: dict[str, SweepEntry] = Field(default_factory=dict[str, SweepEntry])
    schedules: dict[str, ScheduleEntry] = Field(default_factory=dict)

    def stage_names(self) -> list[str]:
        """Return every stage of the recipe and of its chains, each once, in the order of the file."""
        return list(dict.fromkeys([*self.stages, *(name for chain in self.chains.values() for name in chain)]))
