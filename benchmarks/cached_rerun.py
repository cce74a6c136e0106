"""Compare a full rerun in which every stage is cached with a bare Prefect flow of 12 tasks, in one process.

What is measured is what orchestration costs when there is nothing to do: loading and planning the recipe, one Prefect
task per stage whose artifact is checked and reused, the plan and summary artifacts, the run report. The bare flow has
12 tasks that do nothing, each waiting for the one before, and one artifact. Both run against the same server, in turns.
A third flow has as many bare tasks as the recipe has stages.

    python -m benchmarks.cached_rerun --store store
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from flows.parameters import ALL, RECIPE_FILE, stage_or_none
from flows.server import prefect_server


def bare_flow(count: int) -> Callable[[], Any]:
    """Return a flow of `count` tasks, each waiting for the one before."""
    from prefect import flow, task
    from prefect.artifacts import create_markdown_artifact
    from prefect.task_runners import ThreadPoolTaskRunner

    @task
    def nothing(before: Any) -> int:
        return 0

    @flow(name=f"bare-{count}", task_runner=ThreadPoolTaskRunner(max_workers=48))  # type: ignore[arg-type]
    def bare() -> None:
        last: Any = None
        for _ in range(count):
            last = nothing.submit(last)
        last.result()
        create_markdown_artifact("done", key="bare")

    return bare


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store", help="a store in which every stage of the profile is present")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--file", default=str(RECIPE_FILE), help="the recipe file the store was made with")
    parser.add_argument("--until", default=ALL, help="measure the recipe up to this stage only")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with prefect_server():
        from flows.pipeline import plan_run, recipe
        from nanbeige_core.recipe.plan import Selection

        def plan() -> Any:
            return plan_run(
                arguments.file, arguments.profile, [], arguments.store, Selection(until=stage_or_none(arguments.until))
            )

        made = plan()
        if made.to_run:
            raise SystemExit(f"not all is cached: {', '.join(p.name for p in made.to_run)} would run; run them first")
        flows = {
            "plan": plan,
            "bare 12": bare_flow(12),
            f"bare {len(made.selected)}": bare_flow(len(made.selected)),
            "cached rerun": lambda: recipe(
                profile=arguments.profile, until=arguments.until, file=arguments.file, store=arguments.store
            ),
        }
        for function in flows.values():
            function()
        times: dict[str, list[float]] = {name: [] for name in flows}
        for _ in range(arguments.repeats):
            for name, function in flows.items():
                times[name].append(seconds(function))
    middle = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:14s} median {middle[name]:.3f} s  (from {min(values):.3f} to {max(values):.3f})")
    for name in list(flows)[1:3]:
        print(f"cached rerun / {name}: {middle['cached rerun'] / middle[name]:.2f}")


if __name__ == "__main__":
    main()
