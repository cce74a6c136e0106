"""The fork server of the namespace sandbox: interpreter and numpy are loaded once, each program gets a fresh copy.

One JSON request a line in, one JSON reply a line out, as `guest_worker` speaks it. For every program: a child in new
namespaces, its process 1 (trusted, kills all at its end), and below it the process that holds the program. The
program's process is asked one input at a time under a random id and answers typed plain data; this process checks
the protocol, the parent compares. Processor time decides when a program has run too long; wall time only protects.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, "/guest")
import isolation  # noqa: E402  # pyright: ignore
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
SLACK = 0.5
LOOK_SECONDS = 0.25
"""How often the processor time of all processes of a program is added up; the kernel limits each one alone."""
TICKS = os.sysconf("SC_CLK_TCK")


class Held:
    """One program in its own namespaces."""

    def __init__(self, cpu_seconds: int, memory_bytes: int) -> None:
        self.cpu_seconds = cpu_seconds
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        self._status, status = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in (self._requests, self._replies, self._status, 0, 1):
                os.close(descriptor)
            run_outer(requests, replies, status, cpu_seconds, memory_bytes)
        for descriptor in (requests, replies, status):
            os.close(descriptor)
        self._pending = b""
        self.deadline = time.monotonic() + WALL_FACTOR * cpu_seconds + WALL_FLOOR

    def ask(self, function: str, *arguments: str) -> Any:
        """Ask for one value; raise Stop for every other end."""
        request = secrets.token_hex(8)
        line = json.dumps([function, request, *arguments]).encode() + b"\n"
        while line:
            if not select.select([], [self._requests], [], max(0.0, self.deadline - time.monotonic()))[1]:
                raise self._late()
            try:
                line = line[os.write(self._requests, line[:65536]) :]
            except BrokenPipeError as error:
                raise self._ended() from error
        return read_reply(self._read_line(), request)

    def close(self) -> float:
        """Kill everything the program started and return its processor seconds; raise Stop for a forged reply."""
        os.close(self._requests)
        unsolicited = self._pending or bool(select.select([self._replies], [], [], 0)[0] and os.read(self._replies, 1))
        os.close(self._replies)
        os.close(self._status)
        # process 1 is gone only after the kernel has ended and reaped all of its namespace, so this wait leaves nothing
        for first in _children(self.pid) or [self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
        _, _, usage = os.wait4(self.pid, 0)
        if unsolicited:
            raise Stop("protocol", "the program wrote a reply nobody asked for")
        return usage.ru_utime + usage.ru_stime

    def _read_line(self) -> bytes:
        parts, size = [self._pending], len(self._pending)
        while b"\n" not in parts[-1]:
            left = self.deadline - time.monotonic()
            if not select.select([self._replies], [], [], max(0.0, min(left, LOOK_SECONDS)))[0]:
                if sum(map(_spent, _descendants(self.pid))) > self.cpu_seconds + SLACK:
                    raise Stop("cpu_limit", f"its processes used more than {self.cpu_seconds} s of processor time")
                if left <= 0:
                    raise self._late()
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

    def _ended(self) -> Stop:
        ready = select.select([self._status], [], [], 5.0)[0]
        text = os.read(self._status, 100).decode() if ready else ""
        if not text:
            return Stop("infra", "the namespaces could not be set up or were killed from outside")
        if text.startswith("setup "):
            return Stop("infra", text)
        code, spent = int(text.split()[0]), float(text.split()[1])
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and spent > self.cpu_seconds - SLACK):
            return Stop("cpu_limit", f"more than {self.cpu_seconds} s of processor time")
        if code == -signal.SIGKILL:
            return Stop("memory", "the program was killed; the memory of its group is the usual reason")
        if code < 0:
            return Stop("error", f"the interpreter died ({signal.Signals(-code).name})")
        return Stop("error", "the program ended the interpreter")

    def _late(self) -> Stop:
        """Judge a program at the wall limit: one whose processes all sleep waits; one that wants to run was starved."""
        states = [_state(pid) for pid in _descendants(self.pid)]
        if any(state in "RD" for state in states):
            return Stop("infra", "the wall limit passed while the program still wanted to run")
        return Stop("error", "the program waits or sleeps")


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended
        return []


def _descendants(pid: int) -> list[int]:
    return [found for child in _children(pid) for found in (child, *_descendants(child))]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:  # it has ended
        return ["X", *["0"] * 20]


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _spent(pid: int) -> float:
    """Return the processor seconds of a process and of those children that it has waited for."""
    return sum(map(int, _stat(pid)[11:15])) / TICKS


def run_outer(requests: int, replies: int, status: int, cpu_seconds: int, memory_bytes: int) -> NoReturn:
    """Move to new namespaces, start process 1 there, and end when it ends."""
    try:
        isolation.die_with_parent()
        isolation.enter_namespaces()
        if os.fork() == 0:
            run_first(requests, replies, status, cpu_seconds, memory_bytes)
    except BaseException as error:
        os.write(status, f"setup {type(error).__name__}: {error}"[:100].encode())
        os._exit(1)
    for descriptor in (requests, replies, status):
        os.close(descriptor)
    os.wait()
    os._exit(0)


def run_first(requests: int, replies: int, status: int, cpu_seconds: int, memory_bytes: int) -> NoReturn:
    """Be process 1: start the program's process, reap what it leaves, and report how it ended; all die with this."""
    try:
        isolation.die_with_parent()
        isolation.cover_mounts()
        program = os.fork()
    except BaseException as error:
        os.write(status, f"setup {type(error).__name__}: {error}"[:100].encode())
        os._exit(1)
    if program == 0:
        os.close(status)
        hold(requests, replies, cpu_seconds, memory_bytes)
    os.close(requests)
    os.close(replies)
    while True:
        pid, code, usage = os.wait4(-1, 0)
        if pid == program:
            report = f"{os.waitstatus_to_exitcode(code)} {usage.ru_utime + usage.ru_stime}"
            os.write(status, report.encode())
            os._exit(0)


def hold(requests: int, replies: int, cpu_seconds: int, memory_bytes: int) -> NoReturn:
    """Be the program's process: answer requests until the pipe closes."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    isolation.confine(cpu_seconds=cpu_seconds, memory_bytes=memory_bytes)
    world = app.WitWorld()
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            function, *arguments = json.loads(line)
            answer = getattr(world, function)(*arguments).encode() + b"\n"
            while answer:
                answer = answer[os.write(replies, answer) :]
    os._exit(0)


def run_program(request: dict[str, Any]) -> dict[str, Any]:
    """Run one program over its inputs; stop at the first input without a value."""
    values: list[Any] = []
    cause, detail, seconds = "completed", "", 0.0
    limit = max(2, round(request["fuel"] * max(1, len(request["inputs"])) / FUEL_PER_SECOND) + 1)
    held = Held(limit, int(request["memory"]))
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
