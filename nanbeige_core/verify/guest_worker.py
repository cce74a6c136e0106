"""The process that holds the WebAssembly engine: one JSON request a line in, one JSON reply a line out.

Each program gets a fresh instance of the interpreter. A budget of instructions (fuel), not time, decides when a
program has run too long, so a verdict is the same on every machine and at every load. Clock and randomness are
constants; waiting is refused, because a host call that waits could not be metered. This process never sees expected
values; the parent may kill it at any moment.
"""

import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import component

from nanbeige_core.verify.namespace_guest.replies import REPLY_BYTES, Stop, read_reply

MEMORY_BYTES = 256 << 20
START_FUEL = 400_000_000
"""Instructions allowed for executing a program's module body, before its first test."""
WASI = "0.2.9"
"""WASI release the component imports; componentize-py fixes it."""


class WaitingRefused(Exception):
    """The guest asked to sleep or to wait for input."""


class Clock:
    """The clock of the program that runs: every look at it is a millisecond later than the one before."""

    ticks = 0

    def tick(self) -> int:
        """Return the nanoseconds since the program began."""
        self.ticks += 1
        return self.ticks * 1_000_000


class GuestEngine:
    """A wasmtime engine with the guest's imports linked."""

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._linker = component.Linker(self._engine)
        self._linker.add_wasip2()
        self._linker.allow_shadowing = True
        self._clock = Clock()
        _make_deterministic(self._linker, self._clock)
        self._component: component.Component | None = None

    def compile(self, wasm: bytes) -> bytes:
        """Return the machine code of a component."""
        return bytes(component.Component(self._engine, wasm).serialize())

    def load(self, compiled: Path) -> None:
        """Map the compiled guest into memory."""
        self._component = component.Component.deserialize_file(self._engine, str(compiled))

    def instantiate(self) -> "Guest":
        """Return a fresh interpreter."""
        if self._component is None:
            raise RuntimeError("no guest is loaded; call load() first")
        self._clock.ticks = 0
        store = wasmtime.Store(self._engine)
        store.set_limits(memory_size=MEMORY_BYTES)
        store.set_wasi(wasmtime.WasiConfig())
        store.set_fuel(START_FUEL)
        return Guest(store, self._linker.instantiate(store, self._component))


class Guest:
    """One interpreter that holds one program; after a trap it answers nothing any more."""

    def __init__(self, store: wasmtime.Store, instance: component.Instance) -> None:
        self._store = store
        self._instance = instance
        self.fuel_used = 0

    def ask(self, function: str, fuel: int, *arguments: str) -> Any:
        """Call one export and return the typed value of its reply; raise Stop for every other end."""
        call = self._instance.get_func(self._store, function)
        if call is None:
            raise Stop("infra", f"the guest exports no {function}")
        request = secrets.token_hex(8)
        self._store.set_fuel(fuel)
        try:
            reply = call(self._store, request, *arguments)
            call.post_return(self._store)
        except WaitingRefused as error:
            raise Stop("error", "the program waits or sleeps") from error
        except wasmtime.ExitTrap as error:
            raise Stop("error", "the program ended the interpreter") from error
        except wasmtime.WasmtimeError as error:
            if self._store.get_fuel() == 0:
                raise Stop("cpu_limit", f"more than {fuel} instructions") from error
            raise Stop("error", "the interpreter trapped: " + str(error).strip().splitlines()[-1][-120:]) from error
        self.fuel_used += fuel - self._store.get_fuel()
        return read_text_reply(reply, request)


def read_text_reply(reply: object, request: str) -> Any:
    """Return the typed value of a reply, or raise Stop when it is an error, too long or not ours."""
    if not isinstance(reply, str):
        raise Stop("protocol", "the reply is not text")
    if len(reply) > REPLY_BYTES:
        raise Stop("output_limit", f"the result is longer than {REPLY_BYTES} characters")
    return read_reply(reply, request)


def _make_deterministic(linker: component.Linker, running: Clock) -> None:
    def refuse(store: object, *arguments: object) -> None:
        raise WaitingRefused

    def instant() -> component.Record:
        record: Any = component.Record()
        record.seconds, record.nanoseconds = 0, 0
        return record

    with linker.root() as root:
        with root.add_instance(f"wasi:clocks/monotonic-clock@{WASI}") as clock:
            clock.add_func("now", lambda store: running.tick())
            clock.add_func("resolution", lambda store: 1)
            clock.add_func("subscribe-duration", refuse)
            clock.add_func("subscribe-instant", refuse)
        with root.add_instance(f"wasi:clocks/wall-clock@{WASI}") as clock:
            clock.add_func("now", lambda store: instant())
            clock.add_func("resolution", lambda store: instant())
        with root.add_instance(f"wasi:random/random@{WASI}") as random:
            random.add_func("get-random-bytes", lambda store, length: bytes(length))
            random.add_func("get-random-u64", lambda store: 4)


def open_engine() -> GuestEngine:
    """Return an engine with nothing loaded."""
    return GuestEngine()


def answers(guest: Guest, request: dict[str, Any]) -> Iterator[Any]:
    """Yield the typed result of each input in turn."""
    fuel = int(request["fuel"])
    if request["style"] == "function":
        guest.ask("define", START_FUEL, request["source"], request["entry"])
        for arguments in request["inputs"]:
            yield guest.ask("call", fuel, arguments)
    else:
        yield guest.ask("script", fuel, request["source"], request["inputs"][0])


def run_program(engine: GuestEngine, request: dict[str, Any]) -> dict[str, Any]:
    """Run one program over its inputs; stop at the first input without a value."""
    values: list[Any] = []
    guest = engine.instantiate()
    cause, detail = "completed", ""
    try:
        for value in answers(guest, request):
            values.append(value)
    except Stop as stop:
        cause, detail = stop.cause, str(stop)
    return {"cause": cause, "detail": detail, "values": values, "fuel": guest.fuel_used}


def main() -> None:
    """Serve requests until standard input closes."""
    engine = open_engine()
    engine.load(Path(sys.argv[1]))
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(run_program(engine, json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
