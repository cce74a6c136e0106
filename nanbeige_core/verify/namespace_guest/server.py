"""The fork server of the namespace sandbox: interpreter and numpy are loaded once, each program gets a fresh copy.

One JSON request a line in, one JSON reply a line out, as `guest_worker` speaks it. For every program: a child that is
process 1 of new namespaces, confines itself and then holds the program. It is asked one input at a time under a random
id and answers typed plain data; this process checks the protocol, the parent compares. Processor time decides when a
program has run too long; wall time only protects.
"""

import contextlib
import gc
import json
import os
import secrets
import select
import signal
import sys
import time
import types
from typing import Any, NamedTuple, NoReturn

sys.path.insert(0, "/guest")
import isolation  # noqa: E402  # pyright: ignore
from processes import descendants, spent, wants_to_run  # noqa: E402  # pyright: ignore
from replies import REPLY_BYTES, Stop, read_reply  # noqa: E402  # pyright: ignore

stand_in = types.ModuleType("wit_world")
stand_in.WitWorld = object  # type: ignore[attr-defined]
sys.modules["wit_world"] = stand_in
import app  # noqa: E402  # pyright: ignore

for _name in ("asyncio", "concurrent.futures", "multiprocessing", "subprocess", "tempfile", "threading", "numpy"):
    with contextlib.suppress(ImportError):  # numpy is there where the host has it
        __import__(_name)

FUEL_PER_SECOND = 5_000_000_000
"""How much of the WebAssembly engine's budget stands for one second: both engines take the same task files."""
WALL_FACTOR, WALL_FLOOR = 10, 5.0
"""A program may wait for its limit of processor time so many times over, and some seconds more."""
STARVED_FACTOR = 60
"""The same for one that wants to run: a busy machine is not its fault."""
SLACK = 0.5
LOOK_SECONDS = 0.25
"""How often the processor time of all processes of a program is added up; the kernel limits each one alone."""
END_SECONDS = 5.0
"""How long a program's process may take to end when its pipes are closed; at once, unless the machine is very busy."""


class Limits(NamedTuple):
    """What a program may use: seconds of processor time, bytes of address space."""

    cpu_seconds: int
    memory_bytes: int


class End(NamedTuple):
    """How a program's process ended: its exit status, negative for a signal, and its processor seconds."""

    code: int
    seconds: float


class Held:
    """One program in its own namespaces."""

    def __init__(self, limits: Limits) -> None:
        """Fork; raise Stop with cause `infra` where the kernel refuses."""
        self.cpu_seconds = limits.cpu_seconds
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._status, status = os.pipe()
        outside = os.getuid(), os.getgid()
        try:
            self.pid = isolation.fork_into_namespaces()
        except OSError as error:
            for descriptor in (requests, self._requests, self._replies, replies, self._status, status):
                os.close(descriptor)
            raise Stop("infra", str(error)) from error
        if self.pid == 0:
            for descriptor in (self._requests, self._replies, self._status, 0, 1):
                os.close(descriptor)
            become_program(Pipes(requests, replies, status), outside, limits)
        for descriptor in (requests, replies, status):
            os.close(descriptor)
        self._end: End | None = None
        self._exited = os.pidfd_open(self.pid)
        self._pending = b""
        now = time.monotonic()
        self.deadline = now + WALL_FACTOR * limits.cpu_seconds + WALL_FLOOR
        self.last_deadline = now + STARVED_FACTOR * limits.cpu_seconds

    def ask(self, function: str, *arguments: str) -> Any:
        """Ask for one value; raise Stop for every other end."""
        request = secrets.token_hex(8)
        line = json.dumps([function, request, *arguments]).encode() + b"\n"
        while line:
            if not select.select([], [self._requests], [], LOOK_SECONDS)[1]:
                self._look()
                continue
            try:
                line = line[os.write(self._requests, line[:65536]) :]
            except BrokenPipeError as error:
                raise self._ended() from error
        return read_reply(self._read_line(), request)

    def close(self) -> float:
        """End everything the program started and return its processor seconds; raise Stop for a forged reply."""
        os.close(self._requests)  # its process ends at this, and the kernel ends all others with it
        running = 0.0
        if not select.select([self._exited], [], [], LOOK_SECONDS)[0]:
            running = sum(map(spent, self._processes()))  # the kernel does not add up what it ends itself
        if self._end is None:
            os.kill(self.pid, signal.SIGKILL)
        # process 1 is gone only after the kernel has ended and reaped all of its namespace, so this wait leaves nothing
        end = self._wait()
        unsolicited = self._pending or os.read(self._replies, 1)
        for descriptor in (self._replies, self._status, self._exited):
            os.close(descriptor)
        if unsolicited:
            raise Stop("protocol", "the program wrote a reply nobody asked for")
        return max(running, end.seconds)

    def _read_line(self) -> bytes:
        parts, size = [self._pending], len(self._pending)
        while b"\n" not in parts[-1]:
            if not select.select([self._replies], [], [], LOOK_SECONDS)[0]:
                self._look()
                continue
            part = os.read(self._replies, 1 << 20)
            if not part:
                raise self._ended()
            parts.append(part)
            size += len(part)
            if size > REPLY_BYTES:
                raise Stop("output_limit", f"the result is longer than {REPLY_BYTES} bytes")
        line, _, self._pending = b"".join(parts).partition(b"\n")
        return line

    def _look(self) -> None:
        """Stop a program whose processes together used up its time, that waits too long, or that never got its turn."""
        if sum(map(spent, self._processes())) > self.cpu_seconds + SLACK:
            raise Stop("cpu_limit", f"its processes used more than {self.cpu_seconds} s of processor time")
        now = time.monotonic()
        if now < self.deadline:
            return
        if not any(map(wants_to_run, self._processes())):
            raise Stop("error", "the program waits or sleeps")
        if now >= self.last_deadline:
            raise Stop("infra", "the wall limit passed while the program still wanted to run")

    def _processes(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def _wait(self) -> End:
        if self._end is None:
            _, status, usage = os.wait4(self.pid, 0)
            self._end = End(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
        return self._end

    def _ended(self) -> Stop:
        if not select.select([self._exited], [], [], END_SECONDS)[0]:
            return Stop("error", "the program closed the pipe that it answers through")
        failure = os.read(self._status, 100).decode()  # its end is closed before anything untrusted runs
        if failure:
            return Stop("infra", failure)
        code, seconds = self._wait()
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and seconds > self.cpu_seconds - SLACK):
            return Stop("cpu_limit", f"more than {self.cpu_seconds} s of processor time")
        if code == -signal.SIGKILL:
            return Stop("memory", "the program was killed; the memory of its group is the usual reason")
        if code < 0:
            return Stop("error", f"the interpreter died ({signal.Signals(-code).name})")
        return Stop("error", "the program ended the interpreter")


class Pipes(NamedTuple):
    """A program's ends of the pipes to the fork server."""

    requests: int
    replies: int
    status: int


def become_program(pipes: Pipes, outside: tuple[int, int], limits: Limits) -> NoReturn:
    """Confine this process, say what failed if that fails, and answer requests until their pipe closes."""
    try:
        isolation.die_with_parent()
        isolation.name_users(*outside)
        isolation.cover_mounts()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        isolation.confine(cpu_seconds=limits.cpu_seconds, memory_bytes=limits.memory_bytes)
    except BaseException as error:
        os.write(pipes.status, f"setup {type(error).__name__}: {error}"[:100].encode())
        os._exit(1)
    os.close(pipes.status)
    world = app.WitWorld()
    with os.fdopen(pipes.requests, "rb") as lines:
        for line in lines:
            function, *arguments = app.read_json(line.decode(), 0)[0]
            answer = getattr(world, function)(*arguments).encode() + b"\n"
            while answer:
                answer = answer[os.write(pipes.replies, answer) :]
    os._exit(0)


def run_program(request: dict[str, Any]) -> dict[str, Any]:
    """Run one program over its inputs; stop at the first input without a value."""
    values: list[Any] = []
    cause, detail, seconds = "completed", "", 0.0
    limit = max(2, round(request["fuel"] * max(1, len(request["inputs"])) / FUEL_PER_SECOND) + 1)
    try:
        held = Held(Limits(limit, int(request["memory"])))
    except Stop as stop:
        return {"cause": stop.cause, "detail": str(stop), "values": [], "fuel": 0}
    try:
        if request["style"] == "function":
            held.ask("define", request["source"], request["entry"])
            for arguments in request["inputs"]:
                values.append(held.ask("call", arguments))
        else:
            values.append(held.ask("script", request["source"], request["inputs"][0]))
    except Stop as stop:
        cause, detail = stop.cause, str(stop)
    try:
        seconds = held.close()
    except Stop as stop:
        cause, detail = (stop.cause, str(stop)) if cause == "completed" else (cause, detail)
    return {"cause": cause, "detail": detail, "values": values, "fuel": int(seconds * FUEL_PER_SECOND)}


def main() -> None:
    """Serve requests until standard input closes."""
    isolation.leave_root()
    gc.collect()
    gc.freeze()  # the collector of a program would touch, and thereby copy, every page of this process
    sys.stdout.write('{"ready": true}\n')
    sys.stdout.flush()
    while True:
        line = sys.__stdin__.readline()  # type: ignore[union-attr]
        if not line:
            return
        sys.stdout.write(json.dumps(run_program(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
