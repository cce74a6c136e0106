"""From a stage's start to its first training step, against the bare import of what it needs.

    python benchmarks/stage_start.py [--store store] [--repeats 5]

The stage is the laptop profile's fgwsd_warmup on the mixture of a store that holds one, held-out set cut to 8
sequences; everything is counted: input checks, process, imports, model, first evaluation, first step. Bare import is a
new interpreter that imports the trainer. Fresh: the stage in a new interpreter. Prepared: forked from a process that
has imported everything, as every run does from its second stage on. Target: at most twice the bare import.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from flows.parameters import RECIPE_FILE
from nanbeige_core.artifacts.store import Store
from nanbeige_core.contract import Runtime
from nanbeige_core.launch.execute import execute
from nanbeige_core.launch.job_file import JobFile
from nanbeige_core.launch.orders import make_order
from nanbeige_core.launch.prefork import Prefork, WorkerProcess
from nanbeige_core.launch.start import start_worker
from nanbeige_core.recipe.load import load_recipe
from nanbeige_core.recipe.plan import Selection, make_plan

STAGE = "fgwsd_warmup"
VALUES = [f"{STAGE}.validation_sequences=8"]


class _FirstStep:
    """Notes when the first progress of training arrives."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.seconds = 0.0

    def __call__(self, fraction: float, text: str) -> None:
        if text.startswith("step ") and not self.seconds:
            self.seconds = time.perf_counter() - self.begun


def bare_import() -> float:
    """Return the seconds a new interpreter takes to import the trainer."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import nanbeige_core.megatron.trainer"], check=True)
    return time.perf_counter() - begun


def first_step(folder: Path, start: Callable[[JobFile], WorkerProcess], seed: int) -> float:
    """Return the seconds from the stage's start to the end of its first step; another seed is another artifact."""
    store = Store(str(folder), folder / ".cache")
    recipe = load_recipe(RECIPE_FILE, profile="laptop", overrides=[*VALUES, f"{STAGE}.seed={seed}"])
    planned = make_plan(recipe, store, Selection(until=STAGE)).stages[STAGE]
    noted = _FirstStep()
    execute(make_order(planned), {"mixture": store.resolve("mixture").reference}, store, progress=noted, start=start)
    assert noted.seconds, "the stage ended without a step"
    return noted.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("store"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {"bare import": [], "fresh": [], "prepared": []}
    with tempfile.TemporaryDirectory() as name, Prefork({STAGE}, threads=Runtime().threads) as server:
        folder = Path(name)
        shutil.copytree(arguments.store / "mixture", folder / "mixture")
        server.wait_ready(300)
        for repeat in range(arguments.repeats):
            seconds["bare import"].append(bare_import())
            seconds["fresh"].append(first_step(folder, start_worker, 1000 + 2 * repeat))
            seconds["prepared"].append(
                first_step(folder, lambda file: server.start(file.path, file.log), 1001 + 2 * repeat)
            )
            print({what: round(values[-1], 2) for what, values in seconds.items()}, flush=True)
    medians = {what: statistics.median(values) for what, values in seconds.items()}
    for what, median in medians.items():
        print(f"{what}: {median:.2f} s, {median / medians['bare import']:.2f} times the bare import")


if __name__ == "__main__":
    main()
