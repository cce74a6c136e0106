"""The plan as rows for a terminal and as a coloured graph for the UI."""

from nanbeige_core.recipe.plan import Plan

_COLOURS = {"HIT": "#d5f0d5", "RUN": "#ffe3b8", "RESUME": "#cfe5ff", "SKIP": "#eeeeee"}


def plan_rows(plan: Plan) -> list[dict[str, str]]:
    """Return one row per stage: action, stage, address, and why."""
    return [
        {
            "stage": planned.name,
            "action": planned.action,
            "artifact": planned.address,
            "why": "; ".join(planned.causes),
        }
        for planned in plan.stages.values()
    ]


def plan_markdown(plan: Plan) -> str:
    """Return a mermaid graph coloured by action, and the table below it."""
    lines = ["```mermaid", "graph TD"]
    for planned in plan.stages.values():
        lines.append(f'  {planned.name}["{planned.name}<br/>{planned.action}"]')
        lines.append(f"  style {planned.name} fill:{_COLOURS[planned.action]},stroke:#888,color:#222")
        lines += [f"  {upstream} --> {planned.name}" for upstream in sorted(set(planned.stage.inputs.values()))]
    lines += ["```", "", "| stage | action | why |", "| --- | --- | --- |"]
    for row in plan_rows(plan):
        why = row["why"].replace("|", "\\|")
        lines.append(f"| {row['stage']} | {row['action']} | {why} |")
    return "\n".join(lines)
