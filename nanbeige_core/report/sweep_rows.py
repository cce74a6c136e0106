"""The plan of a sweep as rows: which stages its runs share, and which each makes for itself."""

from nanbeige_core.recipe.sweep_plan import SharedStage, SweepPlan

_SHOWN_RUNS = 3


def sweep_rows(plan: SweepPlan) -> list[dict[str, str]]:
    """Return one row for each distinct stage: action, artifact, the runs that need it, and why."""
    return [
        {
            "stage": shared.planned.name,
            "action": shared.planned.action,
            "artifact": shared.planned.address,
            "for": describe_runs(plan, shared),
            "why": "; ".join(shared.planned.causes),
        }
        for shared in plan.stages.values()
    ]


def describe_runs(plan: SweepPlan, shared: SharedStage) -> str:
    """Return whose stage this is: all runs', one arm's, or the runs by name."""
    if len(shared.runs) == len(plan.runs):
        return f"all {len(plan.runs)} runs"
    arms = {run.label: run.arm for run in plan.runs}
    of_arm = {arms[label] for label in shared.runs}
    if len(of_arm) == 1 and len(shared.runs) == len(plan.entry.seeds) > 1:
        return f"{of_arm.pop()}, all seeds"
    if len(shared.runs) > _SHOWN_RUNS:
        return f"{len(shared.runs)} runs"
    return "; ".join(shared.runs)


def describe_sharing(plan: SweepPlan) -> str:
    """Return in one line how much the runs share and how much is left to do."""
    needed = sum(len(shared.runs) for shared in plan.stages.values())
    return (
        f"{len(plan.entry.arms)} arms x {len(plan.entry.seeds)} seeds = {len(plan.runs)} runs of "
        f"{len(plan.runs[0].plan.selected)} stages: {needed} stage runs, {len(plan.stages)} after sharing, "
        f"{len(plan.to_run)} to execute"
    )
