"""What a sandboxed run costs beside the bare primitive it is made of, the sides taking turns.

    python -m benchmarks.sandbox_floor [--runs 60] [--rounds 4]

WebAssembly: a component with nothing but `exec` in it, instantiated and called in this process: no typed replies, no
second call, no killable worker. Namespaces: a warm interpreter that forks, unshares and mounts one file system,
without filter, limits or protocol, and once with the second fork that makes the program process 1, as it is in the
engine. Processor time of all processes by control group; medians over the rounds.
"""

import argparse
import ctypes
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import wasmtime
from wasmtime import component

from benchmarks.sandbox import ProcessorTime, open_engine
from nanbeige_core.verify.guest_worker import MEMORY_BYTES, START_FUEL
from nanbeige_core.verify.sandbox import Needs, Program, Runner

SOURCE = "import collections, functools, heapq, itertools, math, re\ndef f(x):\n    return 3 * x + 1\n"
WORLD = "package plain:py@0.1.0;\nworld plain {\n  export run: func(source: string) -> string;\n}\n"
GUEST = f"""import io, sys
import wit_world
{SOURCE.splitlines()[0]}
class WitWorld(wit_world.WitWorld):
    def run(self, source: str) -> str:
        sys.stdout = printed = io.StringIO()
        exec(compile(source, "main", "exec"), {{"__name__": "__main__"}})
        return printed.getvalue()
"""
CLONE_NEW = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000
"""Mounts, host name, IPC, users, processes: what the engine unshares."""
NOBODY = 65534


class PlainComponent:
    """The bare component, compiled once into a cache directory."""

    def __init__(self, cache: Path) -> None:
        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._linker = component.Linker(self._engine)
        self._linker.add_wasip2()
        compiled = cache / "plain.cwasm"
        if not compiled.exists():
            compiled.write_bytes(bytes(component.Component(self._engine, _build()).serialize()))
        self._component = component.Component.deserialize_file(self._engine, str(compiled))

    def run(self) -> None:
        """Run the program in a fresh instance."""
        store = wasmtime.Store(self._engine)
        store.set_limits(memory_size=MEMORY_BYTES)
        store.set_wasi(wasmtime.WasiConfig())
        store.set_fuel(START_FUEL)
        call = self._linker.instantiate(store, self._component).get_func(store, "run")
        assert call is not None
        assert call(store, SOURCE + "print(f(2))") == "7\n"
        call.post_return(store)


def _build() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "world.wit").write_text(WORLD)
        Path(folder, "app.py").write_text(GUEST)
        tool = Path(sys.executable).with_name("componentize-py")
        command = [tool, "-d", "world.wit", "-w", "plain", "componentize", "app", "-o", "plain.wasm"]
        environment = {"PATH": os.defpath, "PYTHONHASHSEED": "0", "HOME": folder}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return Path(folder, "plain.wasm").read_bytes()


@contextmanager
def warm_server() -> Generator[Callable[[bytes], None]]:
    """Yield what asks a warm interpreter for a run: b"1" forks once, b"2" twice."""
    requests, asking = os.pipe()
    answering, answers = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(asking)
        os.close(answering)
        serve(requests, answers)
    os.close(requests)
    os.close(answers)

    def ask(forks: bytes) -> None:
        os.write(asking, forks)
        assert os.read(answering, 10) == b"7"

    try:
        yield ask
    finally:
        os.close(asking)
        os.close(answering)
        os.waitpid(pid, 0)


def serve(requests: int, answers: int) -> NoReturn:
    """Fork for every request, as an unprivileged user, until the pipe closes."""
    for name in ("asyncio", "multiprocessing", "subprocess", "numpy"):  # what the engine's fork server holds
        __import__(name)
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    gc.collect()
    gc.freeze()
    while forks := os.read(requests, 1):
        pid = os.fork()
        if pid == 0:
            assert libc.unshare(CLONE_NEW) == 0
            if forks == b"2" and (inner := os.fork()):
                os.waitpid(inner, 0)
                os._exit(0)
            assert libc.mount(None, b"/", None, 16384 | 1 << 18, None) == 0
            assert libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 6, b"size=64m") == 0
            module: dict[str, Callable[[int], int]] = {}
            exec(compile(SOURCE, "main", "exec"), module)
            os.write(answers, str(module["f"](2)).encode())
            os._exit(0)
        os.waitpid(pid, 0)
    os._exit(0)


def run_in(runner: Runner, needs: Needs, runs: int) -> None:
    """Run the program in an engine."""
    results = runner.run([Program(SOURCE, "f", [[2]], needs=needs)] * runs)
    assert all(result.values == [7] for result in results)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    runs = arguments.runs
    cache = Path(tempfile.gettempdir()) / "nanbeige-guest"
    cache.mkdir(exist_ok=True)
    with ProcessorTime() as clock, ExitStack() as opened:
        ask = opened.enter_context(warm_server())
        plain = PlainComponent(cache)
        wasm = [opened.enter_context(open_engine("wasm", workers)) for workers in (1, 2)]
        namespaces = [opened.enter_context(open_engine("namespaces", workers)) for workers in (1, 2)]
        sides: dict[str, Callable[[], object]] = {
            "WebAssembly, bare component in process": lambda: [plain.run() for _ in range(runs)],
            "WebAssembly, one worker": lambda: run_in(wasm[0], "stdlib", runs),
            "WebAssembly, two workers": lambda: run_in(wasm[1], "stdlib", runs),
            "fork and unshare in a warm server": lambda: [ask(b"1") for _ in range(runs)],
            "the same, program as process 1": lambda: [ask(b"2") for _ in range(runs)],
            "namespaces, one worker": lambda: run_in(namespaces[0], "system", runs),
            "namespaces, two workers": lambda: run_in(namespaces[1], "system", runs),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for turn in range(arguments.rounds + 1):
            for name, work in sides.items():
                used, started = clock.seconds(), time.monotonic()
                work()
                used, seconds = clock.seconds() - used, time.monotonic() - started
                if turn:  # the first starts workers
                    found[name].append((1000 * used / runs, runs / seconds))
    for name, measured in found.items():
        cost, rate = (statistics.median(column) for column in zip(*measured, strict=True))
        best, fastest = min(column[0] for column in measured), max(column[1] for column in measured)
        print(f"{name:40s} {cost:5.1f} CPU-ms (least {best:.1f}), {rate:4.0f} runs/s (most {fastest:.0f})")


if __name__ == "__main__":
    main()
