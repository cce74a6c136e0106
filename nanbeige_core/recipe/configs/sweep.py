"""Identity config of the comparison of a sweep's arms."""

from pydantic import Field

from nanbeige_core.recipe.configs.base import IdentityConfig

REPORT = "report.json"
SUMMARY = "summary.md"
"""Files of a SweepReport: every number, and the part that a person reads."""


def input_name(arm: str, seed: int) -> str:
    """Return the name under which a run's artifact enters the comparison."""
    return f"{arm}@{seed}"


class ComparedArm(IdentityConfig):
    """What made one arm."""

    name: str = Field(description="What the arm is called. ours")
    set: tuple[str, ...] = Field(default=(), description="Overrides of this arm. ours")
    seed_offset: int = Field(default=0, ge=0, description="Added to every seed of this arm. ours")


class FailedRun(IdentityConfig):
    """A run of an arm that ended without an artifact, where and why."""

    arm: str = Field(description="Name of the arm. ours")
    seed: int = Field(description="Seed of the run. ours")
    stage: str = Field(description="Stage that failed. ours")
    cause: str = Field(description="First line of its error. ours")


class SweepReportConfig(IdentityConfig):
    """Which runs are compared at which measure; the inputs are the arms' artifacts, named `arm@seed`."""

    sweep: str = Field(description="Name of the sweep. ours")
    title: str = Field(description="What it asks. ours")
    profile: str = Field(description="Profile of all arms. ours")
    stage: str = Field(description="Stage that ends every arm. ours")
    measure: str = Field(description="Per-problem records that are compared. ours")
    higher_is_better: bool = Field(description="Direction of the measure. ours")
    baseline: str = Field(description="Arm the others are compared with. ours")
    arms: tuple[ComparedArm, ...] = Field(min_length=2, description="All arms, finished or not. ours")
    seeds: tuple[int, ...] = Field(min_length=1, description="Runs of every arm. ours")
    seed_fields: tuple[str, ...] = Field(min_length=1, description="What a seed sets. ours")
    overrides: tuple[str, ...] = Field(default=(), description="Changes of every arm. ours")
    failures: tuple[FailedRun, ...] = Field(default=(), description="Runs without an artifact. ours")
