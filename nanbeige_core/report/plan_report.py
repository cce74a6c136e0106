"""The plan as rows for a terminal and as a coloured graph for the UI."""

import html
from collections import Counter

from nanbeige_core.recipe.plan import Plan, PlannedStage

_COLOURS = {"HIT": "#d5f0d5", "RUN": "#ffe3b8", "RESUME": "#cfe5ff", "SKIP": "#eeeeee"}
_LEGEND = {
    "green": "in the store, reused",
    "amber": "runs",
    "blue": "goes on from a resume point",
    "grey": "not selected",
}


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


def plan_sentence(plan: Plan) -> str:
    """Say in one line how many stages run and how many are reused."""
    counts = Counter(planned.action for planned in plan.stages.values())
    words = {"RUN": "to run", "RESUME": "to resume", "HIT": "reused from the store", "SKIP": "not selected"}
    return ", ".join(f"{counts[action]} {text}" for action, text in words.items() if counts[action])


def plan_markdown(plan: Plan) -> str:
    """Return a mermaid graph coloured by action, its legend, and a table with the reasons below it."""
    legend = " · ".join(f"{colour}: {text}" for colour, text in _LEGEND.items())
    lines = [f"**{plan_sentence(plan)}**", "", legend, "", "```mermaid", "graph TD"]
    for planned in plan.stages.values():
        lines.append(f'  {planned.name}["{planned.name}<br/>{planned.action}"]')
        lines.append(f"  style {planned.name} fill:{_COLOURS[planned.action]},stroke:#888,color:#222")
        lines += [f"  {upstream} --> {planned.name}" for upstream in _drawn_inputs(plan, planned)]
    lines += ["```", "", "Arrows that follow from others are left out.", ""]
    lines += ["| stage | action | why |", "| --- | --- | --- |"]
    for row in plan_rows(plan):
        why = html.escape(row["why"], quote=False).replace("|", "\\|")
        action = f"**{row['action']}**" if row["action"] in ("RUN", "RESUME") else row["action"]
        lines.append(f"| {row['stage']} | {action} | {why} |")
    return "\n".join(lines)


def _drawn_inputs(plan: Plan, planned: PlannedStage) -> list[str]:
    """Return a stage's upstream stages without those that another of them depends on (the transitive reduction)."""
    upstream = set(planned.stage.inputs.values())
    implied = {name for other in upstream for name in plan.recipe.ancestors(other)}
    return sorted(upstream - implied)
