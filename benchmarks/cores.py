"""How curation and mixture scale from one core to two, beside what the cores give to an empty loop.

    python benchmarks/memory.py --documents 4000 --stages quality_tagging retrieval_dedup tokenizer --folder FOLDER
    python benchmarks/cores.py FOLDER/40000 [--stages retrieval_dedup mixture] [--repeats 3]

A stage runs as a process that may use one core or two of this machine, on what `memory.py` left; its imports count.
The control is a loop without any memory in one process on one core, and in two processes on two at once: on a machine
that does other work, or whose cores are threads of one, it does not double either, and a stage cannot do better.
Rounds of all four alternate, and the median of each is taken. `serial` is the share of a stage that would explain its
ratio if the rest scaled as the control does (Amdahl).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measured import measure_command
from memory import ROOT, run_stage
from rich.console import Console
from rich.table import Table

LEAST_CONTROL = 1.5
"""Where two cores give an empty loop less than this, the machine is too busy to tell how a stage scales."""

STEPS = 30_000_000
SPIN = f"value = 1\nfor _ in range({STEPS}): value = value * 6364136223846793005 % 18446744073709551557"


def spin(cores: int) -> float:
    """Return the seconds by the clock that one empty loop on each core takes, all at once."""
    start = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, __file__, "--on", str(number), "1", "spin", "."]) for number in range(cores)
    ]
    if sum(process.wait() != 0 for process in running):
        raise SystemExit("the empty loop failed")
    return time.perf_counter() - start


def clock(stage: str, folder: Path, cores: int) -> tuple[float, float]:
    """Return the seconds by the clock, and the CPU seconds, of a stage on so many cores."""
    shutil.rmtree(folder / stage, ignore_errors=True)
    start = time.perf_counter()
    taken = measure_command(
        [sys.executable, __file__, "--on", "0", str(cores), stage, str(folder)],
        environment=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    if taken is None:
        raise SystemExit(f"{stage} failed on {folder}")
    return time.perf_counter() - start, taken.cpu_seconds


def run_on(first: int, cores: int, stage: str, folder: Path) -> None:
    """Run a stage or the empty loop on so many cores from the first on (the body of a measured process)."""
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[first : first + cores])
    if stage == "spin":
        exec(SPIN)
    else:
        run_stage(stage, folder)


def serial_share(ratio: float, control: float) -> str:
    """Return the share s of the time on one core for which s + (1 - s) / control is 1 / ratio, or that none is told."""
    if control < LEAST_CONTROL:
        return "not told"
    return f"{max(0.0, (1 / ratio - 1 / control) / (1 - 1 / control)):.0%}"


def main() -> None:
    """Measure each stage and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--stages", nargs="*", default=["retrieval_dedup", "mixture"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--on", nargs=4, metavar=("FIRST", "CORES", "STAGE", "FOLDER"), help="Internal.")
    options = parser.parse_args()
    if options.on:
        run_on(int(options.on[0]), int(options.on[1]), options.on[2], Path(options.on[3]))
        return
    if options.folder is None or len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("name a folder of memory.py, on a machine with two cores or more.")
    table = Table(title=f"{options.folder}, median of {options.repeats}")
    for column in (
        "stage",
        "s on one",
        "s on two",
        "times",
        "CPU-s on one",
        "on two",
        "an empty loop, times",
        "serial",
    ):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in options.stages:
        rounds = [
            (spin(1), spin(2), *clock(stage, options.folder, 1), *clock(stage, options.folder, 2))
            for _ in range(options.repeats)
        ]
        one, two, wall, cpu, wall_two, cpu_two = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratio, control = wall / wall_two, 2 * one / two
        table.add_row(
            stage, f"{wall:.1f}", f"{wall_two:.1f}", f"{ratio:.2f}", f"{cpu:.1f}", f"{cpu_two:.1f}",
            f"{control:.2f}", serial_share(ratio, control),
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
