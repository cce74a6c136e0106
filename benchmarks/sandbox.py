"""The sandbox engines: runs a second, containment of every attack, and whether verdicts and budgets repeat.

    python benchmarks/sandbox.py [--engine wasm|namespaces] [--runs 400] [--programs 200] [--skip-attacks]

Prints for each engine the rate of fresh runs on two workers, the share of equal verdicts of an honest corpus between
concurrency 1 and 16, whether ten repeats of a program use the same budget (WebAssembly counts instructions), and the
table of attacks. Exit status 1 when an attack passes, an honest neighbour fails, or a verdict differs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from nanbeige_core.verify.attacks import ATTACKS, HONEST, HONEST_SYSTEM, ORDINARY_SYSTEM, SPEC, SYSTEM_ATTACKS
from nanbeige_core.verify.code_verifier import CodeVerifier
from nanbeige_core.verify.component import SandboxUnavailable
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


def corpus(count: int) -> list[str]:
    """Return distinct honest programs, right and wrong ones, of different cost."""
    return [
        f"def f(x):\n    total = 0\n    for n in range({100 + 37 * (index % 50)}):\n        total += n * {index}\n"
        f"    return 3 * x + {1 if index % 3 else 2} + 0 * total"
        for index in range(count)
    ]


def measure_rate(name: str, runs: int) -> str:
    """Return runs a second with two workers."""
    with open_engine(name, 2) as runner:
        program = Program(HONEST, "f", [[2]], needs=needs_of(name))
        runner.run([program] * 8)
        started = time.monotonic()
        runner.run([program] * runs)
        seconds = time.monotonic() - started
    return f"{runs / seconds:.0f} runs/s on 2 workers"


def measure_equality(name: str, programs: int) -> tuple[str, bool]:
    """Return how many verdicts agree between one and sixteen programs at a time."""
    sources = corpus(programs)
    verdicts: list[list[str]] = []
    for workers in (1, 16):
        with open_engine(name, workers) as runner:
            verdicts.append([verdict.outcome for verdict in judge(runner, name, sources)])
    equal = sum(first == second for first, second in zip(*verdicts, strict=True))
    return f"{equal} of {programs} verdicts equal at concurrency 1 and 16", equal == programs


def measure_repeats(name: str) -> tuple[str, bool]:
    """Return the budgets that ten repeats of one program used; only instructions are expected to be equal."""
    source = "def f(x):\n    return len({str(n) for n in range(20000)}) + x"
    with open_engine(name, 2) as runner:
        results = runner.run([Program(source, "f", [[2]], needs=needs_of(name))] * 10)
    budgets = sorted({result.fuel for result in results})
    text = f"{len(budgets)} distinct budgets in ten repeats ({budgets[0]:,} to {budgets[-1]:,})"
    return text, len(budgets) == 1 or name != "wasm"


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
    parser.add_argument("--programs", type=int, default=200)
    parser.add_argument("--skip-attacks", action="store_true")
    arguments = parser.parse_args()
    good = True
    for name in arguments.engine or ["wasm", "namespaces"]:
        try:
            rate = measure_rate(name, arguments.runs)
        except SandboxUnavailable as error:
            console.print(f"{name}: not available: {error}", markup=False)
            continue
        equality, equal = measure_equality(name, arguments.programs)
        repeats, repeated = measure_repeats(name)
        good &= equal and repeated
        console.print(f"{name}: {rate}; {equality}; {repeats}")
        if not arguments.skip_attacks:
            table, contained = attack(name)
            console.print(table)
            good &= contained
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
