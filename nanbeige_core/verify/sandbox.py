"""Run untrusted Python programs: source and inputs go in, typed plain values and a cause come out.

Expected values and the comparison stay with the caller, in this process. Two engines, and a program says which it
needs. `stdlib`: CPython compiled to WebAssembly (`component.py`, `guest_worker.py`), with no files, network,
processes, clock or randomness, a bound on memory, and an instruction budget that makes every result repeatable.
`system`: Linux namespaces (`namespaces.py`), with numpy, threads, processes and a scratch directory. Where an engine
does not work, SandboxUnavailable says why and what to do; there is no fallback that runs code unprotected.
"""

import json
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from nanbeige_core.verify.component import SandboxUnavailable, build_digest, compiled_guest, component_digest
from nanbeige_core.verify.typed_data import ProtocolViolation, decode
from nanbeige_core.verify.workers import WorkerLost, WorkerPool

Cause = Literal["completed", "error", "cpu_limit", "memory", "output_limit", "protocol", "infra"]
Needs = Literal["stdlib", "system"]
WALL_SECONDS = 30.0
"""Protection only: the instruction budget ends a program long before, whatever the load."""
NAMESPACE_WALL_SECONDS = 600.0
"""Also protection: the fork server's own wall limit, a multiple of the processor limit, comes first."""
MEMORY_BYTES = 1 << 30
"""Address space of one process in the namespaces; numpy alone reserves a few hundred megabytes."""
FUEL_PER_TEST = 1_000_000_000
"""Default budget of one test: about 0.15 s of one core; a trivial call uses 60,000."""


@dataclass(frozen=True)
class Program:
    """A program and what it is run on.

    Function style: `entry` is called with each element of `inputs` (a list of JSON-representable arguments).
    Script style (`entry` None): `inputs` is one text for standard input, and the value is standard output.
    """

    source: str
    entry: str | None
    inputs: Sequence[Any]
    fuel_per_test: int = FUEL_PER_TEST
    needs: Needs = "stdlib"

    def request(self) -> dict[str, Any]:
        """Return the program as the worker's request."""
        scripted = self.entry is None
        return {
            "style": "script" if scripted else "function",
            "source": self.source,
            "entry": self.entry,
            "inputs": list(self.inputs) if scripted else [json.dumps(arguments) for arguments in self.inputs],
            "fuel": self.fuel_per_test,
            "memory": MEMORY_BYTES,
        }


@dataclass(frozen=True)
class ProgramResult:
    """The values of the inputs that were answered, in order, and why there are no more.

    `infra` means the machinery failed, not the program; it must never count as a wrong answer.
    """

    cause: Cause
    detail: str
    values: list[Any]
    fuel: int
    engine: str = "wasm"


class Runner(Protocol):
    """One engine that runs untrusted programs."""

    @property
    def level(self) -> str:
        """Return the engine's name with the strength of its isolation, as it is stamped into verdicts."""
        ...

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run every program in a fresh interpreter; results in order. Never raises for what a program does."""
        ...


class PooledRunner:
    """An engine whose programs run in killable worker processes that speak JSON lines."""

    def __init__(self, pool: WorkerPool, level: str, *, wall_seconds: float = WALL_SECONDS) -> None:
        self._pool, self._level, self._wall_seconds = pool, level, wall_seconds

    @property
    def level(self) -> str:
        """Return the engine's name."""
        return self._level

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run every program; one whose source is no text is answered here."""
        results: dict[int, ProgramResult] = {}
        requests: dict[int, dict[str, Any]] = {}
        for number, program in enumerate(programs):
            try:
                program.source.encode()
                requests[number] = program.request()
            except (UnicodeEncodeError, ValueError) as error:
                results[number] = ProgramResult("error", f"the source is not text: {error}"[:200], [], 0, self._level)
        replies = self._pool.map(list(requests.values()), self._wall_seconds)
        for number, reply in zip(requests, replies, strict=True):
            results[number] = to_result(reply, self._level)
        return [results[number] for number in range(len(programs))]


class Sandbox:
    """Sends each program to the engine that offers what it needs; an engine is opened when one first needs it."""

    def __init__(self, engines: Mapping[Needs, Callable[[], Runner]]) -> None:
        self._opening = dict(engines)
        self._open: dict[Needs, Runner] = {}

    def runner(self, needs: Needs) -> Runner:
        """Return the engine for programs with these needs; raises SandboxUnavailable where it does not work."""
        if needs not in self._open:
            self._open[needs] = self._opening[needs]()
        return self._open[needs]

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run every program in a fresh interpreter; results in order. Never raises for what a program does."""
        results: dict[int, ProgramResult] = {}
        wanted: list[Needs] = ["stdlib", "system"]
        for needs in wanted:
            places = [number for number, program in enumerate(programs) if program.needs == needs]
            if not places:
                continue
            found = self.runner(needs).run([programs[number] for number in places])
            results.update(zip(places, found, strict=True))
        return [results[number] for number in range(len(programs))]


def to_result(reply: dict[str, Any] | WorkerLost, engine: str) -> ProgramResult:
    """Decode a worker's reply; a value that is not plain data ends the program with cause `protocol`."""
    if isinstance(reply, WorkerLost):
        return ProgramResult("infra", reply.reason, [], 0, engine)
    values: list[Any] = []
    try:
        for value in reply["values"]:
            values.append(decode(value))
    except ProtocolViolation as error:
        return ProgramResult("protocol", str(error), values, reply["fuel"], engine)
    return ProgramResult(reply["cause"], reply["detail"], values, reply["fuel"], engine)


@contextmanager
def open_sandbox(*, workers: int, cache: Path, url: str = "") -> Generator[Sandbox]:
    """Yield a sandbox whose compiled interpreter lives in `cache` (built there first, once, in about 30 s).

    With `url` every program runs on the SandboxFusion server there and none on this machine.

    Raises SandboxUnavailable when this machine cannot build or run it; programs that need more than the standard
    library raise it when the first of them is run where namespaces are not allowed.
    """
    with ExitStack() as opened:
        if url:
            from nanbeige_core.verify.fusion import open_fusion

            remote = opened.enter_context(open_fusion(url, workers=workers))
            yield Sandbox({"stdlib": lambda: remote, "system": lambda: remote})
            return
        sandbox = Sandbox(
            {
                "stdlib": lambda: opened.enter_context(open_wasm(workers=workers, cache=cache)),
                "system": lambda: opened.enter_context(open_namespaces(workers=workers)),
            }
        )
        sandbox.runner("stdlib")
        yield sandbox


@contextmanager
def open_wasm(*, workers: int, cache: Path) -> Generator[Runner]:
    """Yield the WebAssembly engine, after a program has run in it."""
    command = [sys.executable, "-m", "nanbeige_core.verify.guest_worker", str(compiled_guest(cache))]
    with WorkerPool(command, workers=workers) as pool:
        runner = PooledRunner(pool, "wasm")
        _probe(runner, f"Delete the cached guest in {cache} and try again; see infra/sandbox/README.md.")
        yield runner


@contextmanager
def open_namespaces(*, workers: int) -> Generator[Runner]:
    """Yield the namespace engine, after a program has run in it; raises SandboxUnavailable with the remedy."""
    from nanbeige_core.verify.namespaces import (
        REMEDY,
        bubblewrap_command,
        control_group,
        find_bubblewrap,
        join_and_run,
    )

    command = bubblewrap_command(find_bubblewrap())
    with control_group(workers) as groups, WorkerPool(join_and_run(command, groups), workers=workers) as pool:
        level = "namespaces+cgroup" if groups else "namespaces"
        runner = PooledRunner(pool, level, wall_seconds=NAMESPACE_WALL_SECONDS)
        _probe(runner, REMEDY)
        yield runner


def _probe(runner: Runner, remedy: str) -> None:
    probe = runner.run([Program("def f(x):\n    return x + 1", "f", [[41]])])[0]
    if probe.values != [42]:
        raise SandboxUnavailable(
            f"the {runner.level} sandbox answered {probe.values} ({probe.cause}: {probe.detail}) to a probe, expected "
            f"[42]. Code is never run without a sandbox. {remedy}"
        )


def sandbox_level(cache: Path) -> str:
    """Say in a line for each engine whether it works here, found out by running a program, or why it does not."""
    lines: list[str] = []
    try:
        with open_wasm(workers=1, cache=cache) as runner:
            build = build_digest(compiled_guest(cache))
            lines.append(
                f"{runner.level}, guest {component_digest()}, build {build}: fuel-metered, repeatable, no OS privilege"
            )
    except SandboxUnavailable as error:
        lines.append(f"wasm: none: {error}")
    try:
        with open_namespaces(workers=1) as runner:
            lines.append(f"{runner.level}: numpy, threads and processes; limits by processor time and memory")
    except SandboxUnavailable as error:
        lines.append(f"namespaces: none: {error}")
    return "\n".join(lines)
