"""Programs on a SandboxFusion server, through its `run_code` request: many machines instead of this one.

The interpreter there is driven by the same guest as the engines here and answers typed plain data under a request id;
expected values stay with the caller. What it isolates is up to the server (its default is nothing), and its limits are
wall clock, so a verdict depends on its load: every result carries the engine's name, and only an address given by the
user opens it.
"""

import base64
import json
import secrets
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from nanbeige_core.verify.component import GUEST, SandboxUnavailable
from nanbeige_core.verify.namespace_guest.replies import Stop, read_reply
from nanbeige_core.verify.sandbox import Cause, Program, ProgramResult
from nanbeige_core.verify.typed_data import ProtocolViolation, decode

LEVEL = "sandboxfusion"
LEAST_SECONDS = 10.0
SECONDS_PER_FUEL = 1 / 100_000_000
"""Wall seconds for an instruction of WebAssembly: fifty times what the namespace engine allows of processor time."""
RETRIES = 3
CAUSES: dict[str, Cause] = {"error": "error", "memory": "memory", "output_limit": "output_limit"}
"""What a guest's reply may name; anything else is a violation of the protocol."""
DRIVER = """\
import json, os, sys, types
stub = types.ModuleType("wit_world")
stub.WitWorld = object
sys.modules["wit_world"] = stub
sys.path.insert(0, os.getcwd())
import app
asked = json.load(sys.stdin)
replies, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
def answer(reply):
    os.write(replies, (reply + "\\n").encode())
world = app.WitWorld()
if asked["entry"] is None:
    for text in asked["inputs"]:
        answer(world.script(asked["id"], asked["source"], text))
else:
    defined = world.define(asked["id"], asked["source"], asked["entry"])
    answer(defined)
    if "error" not in json.loads(defined):
        for arguments in asked["inputs"]:
            answer(world.call(asked["id"], arguments))
os._exit(0)
"""
"""What the server is asked to run: the guest, fed by standard input, with the program's own output thrown away."""


class FusionRunner:
    """One server; several requests at a time."""

    def __init__(self, url: str, *, workers: int, backoff_seconds: float = 1.0) -> None:
        self._client = httpx.Client(base_url=url.rstrip("/"))
        self._url, self._workers, self._backoff = url, workers, backoff_seconds
        self._files = {"app.py": base64.b64encode((GUEST / "app.py").read_bytes()).decode()}

    @property
    def level(self) -> str:
        """Return the engine's name."""
        return LEVEL

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def run(self, programs: Sequence[Program]) -> list[ProgramResult]:
        """Run every program in an interpreter of its own; results in order. Never raises for what a program does."""
        with ThreadPoolExecutor(self._workers) as pool:
            return list(pool.map(self._run, programs))

    def _run(self, program: Program) -> ProgramResult:
        request = secrets.token_hex(16)
        try:
            asked = {**program.request(), "id": request}
            seconds = max(LEAST_SECONDS, program.fuel_per_test * len(program.inputs) * SECONDS_PER_FUEL)
            answer = self._post(
                {
                    "code": DRIVER,
                    "language": "python",
                    "stdin": json.dumps(asked),
                    "run_timeout": seconds,
                    "files": self._files,
                },
                seconds,
            )
        except (UnicodeEncodeError, ValueError) as error:
            return _ended("error", f"the source is not text: {error}"[:200])
        except httpx.HTTPError as error:
            return _ended("infra", f"{self._url}: {type(error).__name__}: {error}"[:200])
        return read_answer(answer, program, request)

    def _post(self, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Ask, again where the server or the line failed; raises httpx.HTTPError after the last attempt."""
        for attempt in range(RETRIES + 1):
            try:
                response = self._client.post("/run_code", json=body, timeout=2 * seconds + 30)
                response.raise_for_status()
                answer: dict[str, Any] = response.json()
                if answer.get("status") != "SandboxError" or attempt == RETRIES:
                    return answer
            except httpx.HTTPError:
                if attempt == RETRIES:
                    raise
            time.sleep(self._backoff * 2**attempt)
        raise AssertionError("the last attempt returns or raises")


def _ended(cause: Cause, detail: str, values: list[Any] | None = None) -> ProgramResult:
    return ProgramResult(cause, detail, values or [], 0, LEVEL)


def read_answer(answer: dict[str, Any], program: Program, request: str) -> ProgramResult:
    """Return what an answer of `run_code` says about a program; the server's own failure is `infra`."""
    run = answer.get("run_result") or {}
    if answer.get("status") == "SandboxError" or not run:
        return _ended("infra", f"the server could not run it: {answer.get('message', '')}"[:200])
    replies = str(run.get("stdout") or "").splitlines()
    values: list[Any] = []
    try:
        if program.entry is not None and replies:
            read_reply(replies.pop(0), request)
        for reply in replies:
            values.append(decode(read_reply(reply, request)))
    except Stop as stop:
        return _ended(CAUSES.get(stop.cause, "protocol"), str(stop), values)
    except ProtocolViolation as error:
        return _ended("protocol", str(error), values)
    if len(values) == len(program.inputs):
        return _ended("completed", "", values)
    if run.get("status") == "TimeLimitExceeded":
        return _ended("cpu_limit", "wall clock of the server", values)
    return _ended("error", f"ended with {run.get('return_code')}: {run.get('stderr', '')}"[:200], values)


@contextmanager
def open_fusion(url: str, *, workers: int) -> Generator[FusionRunner]:
    """Yield the server's engine after a program has run on it; raises SandboxUnavailable with what it answered."""
    runner = FusionRunner(url, workers=workers)
    try:
        probe = runner.run([Program("def f(x):\n    return x + 1", "f", [[41]])])[0]
        if probe.values != [42]:
            raise SandboxUnavailable(
                f"{url} answered {probe.values} ({probe.cause}: {probe.detail}) to a probe, expected [42]. Check that "
                "a SandboxFusion server with Python 3.11 or later listens there, or leave runtime.sandbox_url empty."
            )
        yield runner
    finally:
        runner.close()
