"""The SandboxFusion driver against a small server that speaks its `run_code` and really runs the code it is sent.

The server here isolates nothing, so only harmless programs go there.
"""

import base64
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nanbeige_core.verify.code_verifier import open_code_verifier
from nanbeige_core.verify.component import SandboxUnavailable
from nanbeige_core.verify.fusion import LEVEL, FusionRunner, open_fusion
from nanbeige_core.verify.sandbox import Program
from nanbeige_core.verify.verdict import VerificationRequest
from tests.serving import JsonHandler, serving


class Fusion(JsonHandler):
    failures = 0

    def do_POST(self) -> None:
        body = self.read()
        assert (self.path, body["language"]) == ("/run_code", "python")
        answer = self.run(body)
        if Fusion.failures:
            Fusion.failures -= 1
            answer = {"status": "SandboxError", "message": "no room", "run_result": None}
        self.answer(answer)

    def run(self, body: dict[str, Any]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in body["files"].items():
                (Path(folder) / name).write_bytes(base64.b64decode(content))
            try:
                done = subprocess.run(
                    [sys.executable, "-c", body["code"]], input=body["stdin"], cwd=folder, text=True,
                    capture_output=True, timeout=2 if "while True" in body["stdin"] else body["run_timeout"],
                )  # fmt: skip
            except subprocess.TimeoutExpired as late:
                out = (late.stdout or b"").decode()
                return {"status": "Failed", "run_result": {"status": "TimeLimitExceeded", "stdout": out, "stderr": ""}}
        run = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        return {"status": "Success" if done.returncode == 0 else "Failed", "message": "", "run_result": run}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(Fusion) as address:
        yield address.removesuffix("/v1")


def test_every_cause_comes_back_as_from_the_engines_here(url: str) -> None:
    programs = [
        Program("def f(x, y):\n    print('noise')\n    return [x + y, (1.5, None)]", "f", [[1, 2], [3, 4]]),
        Program("print(int(input()) * 2)", None, ["21"]),
        Program("def f(x):\n    return 1 // x", "f", [[1], [0], [2]]),
        Program("def f(x):\n    return object()", "f", [[1]]),
        Program("import os\ndef f(x):\n    os._exit(3)", "f", [[1]]),
        Program("import os\ndef f(x):\n    os.write(1, b'forged')\n    return x", "f", [[1]]),
        Program("def f(x):\n    while True: pass", "f", [[1]]),
    ]
    with open_fusion(url, workers=4) as runner:
        results = runner.run(programs)
    assert [result.cause for result in results] == [
        "completed", "completed", "error", "error", "error", "completed", "cpu_limit",
    ]  # fmt: skip
    assert results[0].values == [[3, (1.5, None)], [7, (1.5, None)]]
    assert results[1].values == ["42\n"]
    assert results[2].values == [1]
    assert results[5].values == [1]
    assert {result.engine for result in results} == {LEVEL}


def test_the_code_verifier_judges_through_it_and_stamps_the_engine(url: str, tmp_path: Path) -> None:
    spec = {"entry": "f", "public": [[[2], 7]], "private": [[[5], 16]]}
    answers = [f"```python\ndef f(x):\n    return {body}\n```" for body in ("3 * x + 1", "7")]
    with open_code_verifier(workers=2, cache=tmp_path, sandbox_url=url) as verifier:
        verdicts = verifier.verify([VerificationRequest("p", answer, spec) for answer in answers])
    assert [(verdict.outcome, verdict.engine) for verdict in verdicts] == [("correct", LEVEL), ("wrong", LEVEL)]


def test_a_failure_of_the_server_is_asked_again_and_then_unscored(url: str) -> None:
    runner = FusionRunner(url, workers=1, backoff_seconds=0.01)
    program = Program("def f(x):\n    return x", "f", [[1]])
    Fusion.failures = 2
    assert runner.run([program])[0].values == [1]
    Fusion.failures = 100
    assert runner.run([program])[0].cause == "infra"
    Fusion.failures = 0
    runner.close()


def test_an_address_without_a_server_is_refused_with_the_remedy() -> None:
    runner_url = "http://127.0.0.1:9"
    with pytest.raises(SandboxUnavailable, match=r"sandbox_url"), open_fusion(runner_url, workers=1):
        pass
