"""Compare a rerun in which all twelve stages are cached with a bare Prefect flow of as many tasks, in one process.

What is measured is what orchestration costs when there is nothing to do: planning the recipe (its file is parsed once
in a process), one Prefect task per stage whose artifact is checked and reused, the plan and summary artifacts. The bare
flow has tasks that do nothing, each waiting for the one before, and one artifact. Both run against the same server, in
turns. Processor time is this process's own; the server's is in the wall time of both.

    python -m benchmarks.cached_rerun --store store
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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


class Spent(NamedTuple):
    """Seconds on the clock, and of this process on a processor."""

    wall: float
    processor: float


def spend(function: Callable[[], Any]) -> Spent:
    started, worked = time.perf_counter(), time.process_time()
    function()
    return Spent(time.perf_counter() - started, time.process_time() - worked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store", help="a store in which every stage of the profile is present")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--file", default=str(RECIPE_FILE), help="the recipe file the store was made with")
    parser.add_argument(
        "--until", default="cold_start_sft", help=f"the last stage; up to the default are twelve; {ALL}"
    )
    parser.add_argument("--repeats", type=int, default=9)
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
        count = len(made.selected)
        flows = {
            f"bare {count}": bare_flow(count),
            f"{count} cached": lambda: recipe(
                profile=arguments.profile, until=arguments.until, file=arguments.file, store=arguments.store
            ),
            "plan": plan,
        }
        for function in flows.values():
            function()
        spent: dict[str, list[Spent]] = {name: [] for name in flows}
        for _ in range(arguments.repeats):
            for name, function in flows.items():
                spent[name].append(spend(function))
    middle = {
        name: Spent(statistics.median(one.wall for one in all_), statistics.median(one.processor for one in all_))
        for name, all_ in spent.items()
    }
    for name, one in middle.items():
        lowest = min(other.wall for other in spent[name])
        print(f"{name:12s} wall {one.wall:.3f} s (lowest {lowest:.3f}), processor {one.processor:.3f} s")
    bare, cached = (middle[name] for name in list(flows)[:2])
    print(f"cached / bare: wall {cached.wall / bare.wall:.2f}, processor {cached.processor / bare.processor:.2f}")


if __name__ == "__main__":
    main()
