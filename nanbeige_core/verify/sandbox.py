"""Run untrusted Python programs: source and inputs go in, typed plain values and a cause come out.

Expected values and the comparison stay with the caller, in this process. The engine is CPython compiled to
WebAssembly (`component.py`, `guest_worker.py`): no files, network, processes, clock or randomness, a bound on
memory, and an instruction budget that makes every result repeatable. Where it does not work, opening the sandbox
raises SandboxUnavailable; there is no fallback that runs code unprotected.
"""

import json
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanbeige_core.verify.component import SandboxUnavailable, compiled_guest, component_digest
from nanbeige_core.verify.typed_data import ProtocolViolation, decode
from nanbeige_core.verify.workers import WorkerLost, WorkerPool

Cause = Literal["completed", "error", "cpu_limit", "memory", "output_limit", "protocol", "infra"]
WALL_SECONDS = 30.0
"""Protection only: the instruction budget ends a program long before, whatever the load."""
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

    def request(self) -> dict[str, Any]:
        """Return the program as the worker's request."""
        scripted = self.entry is None
        return {
            "style": "script" if scripted else "function",
            "source": self.source,
            "entry": self.entry,
            "inputs": list(self.inputs) if scripted else [json.dumps(arguments) for arguments in self.inputs],
            "fuel": self.fuel_per_test,
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


class Sandbox:
    """Runs batches of programs on killable workers."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run every program in a fresh interpreter; results in order. Never raises for what a program does."""
        requests: list[dict[str, Any]] = []
        unsendable: dict[int, ProgramResult] = {}
        for number, program in enumerate(programs):
            try:
                requests.append(program.request())
                program.source.encode()
            except (UnicodeEncodeError, ValueError) as error:
                unsendable[number] = ProgramResult("error", f"the source is not text: {error}"[:200], [], 0)
        if unsendable:
            sendable = iter(self.run([p for n, p in enumerate(programs) if n not in unsendable]))
            return [unsendable[n] if n in unsendable else next(sendable) for n in range(len(programs))]
        return [to_result(reply) for reply in self._pool.map(requests, WALL_SECONDS)]


def to_result(reply: dict[str, Any] | WorkerLost) -> ProgramResult:
    """Decode a worker's reply; a value that is not plain data ends the program with cause `protocol`."""
    if isinstance(reply, WorkerLost):
        return ProgramResult("infra", reply.reason, [], 0)
    values: list[Any] = []
    try:
        for value in reply["values"]:
            values.append(decode(value))
    except ProtocolViolation as error:
        return ProgramResult("protocol", str(error), values, reply["fuel"])
    return ProgramResult(reply["cause"], reply["detail"], values, reply["fuel"])


@contextmanager
def open_sandbox(*, workers: int, cache: Path) -> Generator[Sandbox]:
    """Yield a sandbox whose compiled interpreter lives in `cache` (built there first, once, in about 30 s).

    Raises SandboxUnavailable when this machine cannot build or run it.
    """
    command = [sys.executable, "-m", "nanbeige_core.verify.guest_worker", str(compiled_guest(cache))]
    with WorkerPool(command, workers=workers) as pool:
        sandbox = Sandbox(pool)
        probe = sandbox.run([Program("def f(x):\n    return x + 1", "f", [[41]])])[0]
        if probe.values != [42]:
            raise SandboxUnavailable(
                f"the WebAssembly sandbox answered {probe.values} ({probe.cause}: {probe.detail}) to a probe, expected "
                "[42]. Code is never run without it. Delete the cached guest in "
                f"{cache} and try again; see infra/sandbox/README.md."
            )
        yield sandbox


def sandbox_level(cache: Path) -> str:
    """Say in one line which engine works here, found out by running a program, or why none does."""
    try:
        with open_sandbox(workers=1, cache=cache):
            return f"WebAssembly (wasmtime), guest {component_digest()}: fuel-metered, repeatable, no OS privilege"
    except SandboxUnavailable as error:
        return f"none: {error}"
