"""Run many programs, honest and hostile, and prove that nothing of them is left on the machine.

    python benchmarks/sandbox_soak.py [--runs 100000] [--engine wasm|namespaces] [--workers 2]

Counts this process's descendants, open descriptors, mounts, control groups and files in temporary directories before
the engine opens and after it has closed, and checks the verdict of every honest program. Exit status 1 when anything
is left or an honest program fails. Programs that only time out are left out: they would take days.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from nanbeige_core.verify.attacks import ATTACKS, HONEST, ORDINARY_SYSTEM, SYSTEM_ATTACKS
from nanbeige_core.verify.component import SandboxUnavailable
from nanbeige_core.verify.sandbox import Program, open_namespaces, open_wasm

SLOW_SECONDS = 0.5
"""An attack that takes longer is run once and then left out."""
EVERY = 20
"""One program in this many is hostile."""
BATCH = 500


class Census(NamedTuple):
    """What a leak would raise."""

    processes: int
    descriptors: int
    mounts: int
    control_groups: int
    temporary_files: int


def take_census() -> Census:
    """Count what exists now."""
    me = psutil.Process()
    groups = Path("/sys/fs/cgroup")
    return Census(
        processes=len(me.children(recursive=True)),
        descriptors=me.num_fds(),
        mounts=len(Path("/proc/self/mountinfo").read_text().splitlines()),
        control_groups=sum(path.is_dir() for path in groups.rglob("*nanbeige*")) if groups.is_dir() else 0,
        temporary_files=sum(path.name.startswith("nanbeige") for path in Path(tempfile.gettempdir()).iterdir()),
    )


def soak(name: str, runs: int, workers: int, cache: Path) -> tuple[int, int, float]:
    """Run the programs; return how many honest ones there were, how many were right, and the seconds."""
    needs = "stdlib" if name == "wasm" else "system"
    chosen = (
        ATTACKS if name == "wasm" else {k: v for k, v in (ATTACKS | SYSTEM_ATTACKS).items() if k not in ORDINARY_SYSTEM}
    )
    opened = open_wasm(workers=workers, cache=cache) if name == "wasm" else open_namespaces(workers=workers)
    honest = right = 0
    with opened as runner:
        quick: list[str] = []
        for source in chosen.values():
            begun = time.monotonic()
            runner.run([Program(source, "f", [[2]], needs=needs)])
            quick += [source] if time.monotonic() - begun < SLOW_SECONDS else []
        begun = time.monotonic()
        for start in range(0, runs, BATCH):
            numbers = range(start, min(start + BATCH, runs))
            hostile = {number for number in numbers if quick and number % EVERY == 0}
            programs = [
                Program(
                    quick[number // EVERY % len(quick)] if number in hostile else HONEST, "f", [[number]], needs=needs
                )
                for number in numbers
            ]
            for number, result in zip(numbers, runner.run(programs), strict=True):
                if number not in hostile:
                    honest += 1
                    right += result.values == [3 * number + 1]
            if (start // BATCH) % 20 == 0:
                print(f"{name}: {start + len(numbers):,} runs, {time.monotonic() - begun:.0f} s", flush=True)
    return honest, right, time.monotonic() - begun


def main() -> None:
    """Soak the chosen engines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=["wasm", "namespaces"], action="append")
    arguments = parser.parse_args()
    clean = True
    cache = Path(tempfile.gettempdir()) / "nanbeige-guest"
    cache.mkdir(exist_ok=True)
    for name in arguments.engine or ["wasm", "namespaces"]:
        before = take_census()
        try:
            honest, right, seconds = soak(name, arguments.runs, arguments.workers, cache)
        except SandboxUnavailable as error:
            print(f"{name}: not available: {error}")
            continue
        after = take_census()
        left = {field: now - was for field, was, now in zip(Census._fields, before, after, strict=True) if now > was}
        clean &= not left and right == honest
        print(
            f"{name}: {arguments.runs:,} runs in {seconds:.0f} s ({arguments.runs / seconds:.0f}/s), {right:,} of "
            f"{honest:,} honest programs right, left behind: {left or 'nothing'}"
        )
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
