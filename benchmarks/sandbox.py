"""The sandbox engines: cost of a run, whether verdicts and budgets repeat, and containment of every attack.

    python benchmarks/sandbox.py [--engine wasm|namespaces] [--runs 400] [--programs 1000] [--repeats 10]

Prints for each engine the rate of fresh runs on two workers and the processor time of one, counted by a control group
(all processes, this one too; it hardly depends on what else the machine does); how many verdicts of a corpus of honest
programs are the deserved ones, and the same at concurrency 1 and 16; whether repeats of every program use the same
budget (WebAssembly counts instructions); and the table of attacks. Exit status 1 when an attack passes, an honest
neighbour fails, or a verdict or an instruction budget differs.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanbeige_core.verify.attacks import ATTACKS, HONEST, HONEST_SYSTEM, ORDINARY_SYSTEM, SPEC, SYSTEM_ATTACKS
from nanbeige_core.verify.code_verifier import CodeVerifier, extract_program, programs_of, read_tests
from nanbeige_core.verify.component import SandboxUnavailable
from nanbeige_core.verify.corpus import HonestProgram, draw_corpus, misjudged
from nanbeige_core.verify.sandbox import Needs, Program, Runner, Sandbox, open_namespaces, open_wasm
from nanbeige_core.verify.verdict import Verdict, VerificationRequest

console = Console(width=140)


def open_engine(name: str, workers: int) -> AbstractContextManager[Runner]:
    """Open one engine by name."""
    if name == "wasm":
        return open_wasm(workers=workers, cache=Path(tempfile.gettempdir()) / "nanbeige-guest")
    return open_namespaces(workers=workers)


def needs_of(name: str) -> Needs:
    """Return what programs say to get this engine."""
    return "stdlib" if name == "wasm" else "system"


def judge(runner: Runner, name: str, sources: Sequence[str]) -> list[Verdict]:
    """Judge programs as the code verifier does."""
    needs = needs_of(name)
    verifier = CodeVerifier(Sandbox({needs: lambda: runner}))
    spec = SPEC | {"needs": needs}
    return verifier.verify([VerificationRequest("p", f"```python\n{source}\n```", spec) for source in sources])


class ProcessorTime:
    """Counts the processor time of this process and all it starts; as a context manager, so that nothing is left."""

    def __init__(self) -> None:
        root = Path("/sys/fs/cgroup")
        self._root = root if (root / "cgroup.controllers").exists() else root / "unified"
        self._group = self._root / f"benchmark-{os.getpid()}"

    def __enter__(self) -> "ProcessorTime":
        try:
            self._group.mkdir()
            (self._group / "cgroup.procs").write_text(str(os.getpid()))
        except OSError as error:
            console.print(f"processor time is not counted: no control group can be made ({error})", markup=False)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            (self._root / "cgroup.procs").write_text(str(os.getpid()))
        deadline = time.monotonic() + 5
        while self._group.exists() and time.monotonic() < deadline:
            with suppress(OSError):  # what was killed may take a moment to leave
                self._group.rmdir()
            time.sleep(0.05)

    def seconds(self) -> float:
        """Return the seconds counted so far; not a number where they cannot be counted."""
        try:
            fields = (self._group / "cpu.stat").read_text().split()
        except OSError:
            return float("nan")
        return int(fields[fields.index("usage_usec") + 1]) / 1e6


def measure_cost(name: str, runs: int) -> str:
    """Return runs a second with two workers, and processor time a run, of a program that imports what most import."""
    source = "import collections, functools, heapq, itertools, math, re\n" + HONEST
    program = Program(source, "f", [[2]], needs=needs_of(name))
    with ProcessorTime() as clock, open_engine(name, 2) as runner:
        runner.run([program] * 8)
        started, used = time.monotonic(), clock.seconds()
        right = sum(result.values == [7] for result in runner.run([program] * runs))
        seconds, used = time.monotonic() - started, clock.seconds() - used
    return (
        f"{right} of {runs} runs right, {runs / seconds:.0f} runs/s on 2 workers, {1000 * used / runs:.1f} CPU-ms a run"
        f" (so at most {2 * runs / used:.0f} runs/s on two cores)"
    )


def measure_verdicts(name: str, corpus: Sequence[HonestProgram]) -> tuple[str, bool]:
    """Judge the corpus one program at a time and sixteen at a time."""
    needs = needs_of(name)
    judged: list[list[Verdict]] = []
    for workers in (1, 16):
        with open_engine(name, workers) as runner:
            verifier = CodeVerifier(Sandbox({needs: lambda runner=runner: runner}))
            judged.append(verifier.verify([program.request for program in corpus]))
    wrong = [line for verdicts in judged for line in misjudged(corpus, verdicts)]
    equal = sum(first == second for first, second in zip(*judged, strict=True))
    for line in wrong[:20]:
        console.print(line, markup=False)
    text = f"{equal} of {len(corpus)} verdicts equal at concurrency 1 and 16, {len(wrong)} not as deserved"
    return text, equal == len(corpus) and not wrong


def measure_budgets(name: str, corpus: Sequence[HonestProgram], repeats: int) -> tuple[str, bool]:
    """Say how many runs used the same instructions in every repeat."""
    programs = [run for program in corpus for run in runs_of(program)]
    budgets: list[set[int]] = [set() for _ in programs]
    with open_engine(name, 2) as runner:
        for _ in range(repeats):
            for found, result in zip(budgets, runner.run(programs), strict=True):
                found.add(result.fuel)
    equal = sum(len(found) == 1 for found in budgets)
    return f"{equal} of {len(programs)} runs used one budget in {repeats} repeats", equal == len(programs)


def runs_of(program: HonestProgram) -> list[Program]:
    """Return the runs that judging a program takes."""
    source = extract_program(program.request.response_text)
    assert source is not None
    return programs_of(source, read_tests(program.request))


def attack(name: str) -> tuple[Table, bool]:
    """Run every attack, an honest program after each, and return the table."""
    system = {key: text for key, text in (ATTACKS | SYSTEM_ATTACKS).items() if key not in ORDINARY_SYSTEM}
    chosen = ATTACKS if name == "wasm" else system
    table = Table(title=f"attacks on {name}")
    for column in ("attack", "verdict", "reason", "seconds", "honest neighbour"):
        table.add_column(column)
    contained = True
    with open_engine(name, 1) as runner:
        for key, source in chosen.items():
            started = time.monotonic()
            verdict, honest = judge(runner, name, [source, HONEST])
            contained &= verdict.outcome != "correct" and honest.outcome == "correct"
            seconds = f"{time.monotonic() - started:.1f}"
            table.add_row(key, verdict.outcome, verdict.reason[:60], seconds, honest.outcome)
        for key, source in ({} if name == "wasm" else HONEST_SYSTEM).items():
            (verdict,) = judge(runner, name, [source])
            contained &= verdict.outcome == "correct"
            table.add_row(f"honest: {key}", verdict.outcome, verdict.reason[:60], "", "")
    return table, contained


def main() -> None:
    """Measure the chosen engines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", choices=["wasm", "namespaces"], action="append")
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--programs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-attacks", action="store_true")
    arguments = parser.parse_args()
    good = True
    for name in arguments.engine or ["wasm", "namespaces"]:
        try:
            console.print(f"{name}: {measure_cost(name, arguments.runs)}")
        except SandboxUnavailable as error:
            console.print(f"{name}: not available: {error}", markup=False)
            continue
        corpus = draw_corpus(arguments.programs, seed=arguments.seed, needs=needs_of(name))
        text, equal = measure_verdicts(name, corpus)
        console.print(f"{name}: {text}")
        good &= equal
        if name == "wasm":
            text, equal = measure_budgets(name, corpus, arguments.repeats)
            console.print(f"{name}: {text}")
            good &= equal
        if not arguments.skip_attacks:
            table, contained = attack(name)
            console.print(table)
            good &= contained
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
