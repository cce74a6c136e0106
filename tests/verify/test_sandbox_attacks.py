"""Every attack on the WebAssembly engine."""

import pytest

from nanbeige_core.verify.attacks import ATTACKS, HONEST, SPEC
from nanbeige_core.verify.code_verifier import CodeVerifier
from nanbeige_core.verify.sandbox import Program, Sandbox
from nanbeige_core.verify.verdict import Verdict, VerificationRequest


def judge(sandbox: Sandbox, source: str) -> Verdict:
    text = f"<think>\n...\n</think>\n\n```python\n{source}\n```"
    return CodeVerifier(sandbox).verify([VerificationRequest("p", text, SPEC)])[0]


def test_honest_program_passes(sandbox: Sandbox) -> None:
    assert judge(sandbox, HONEST).outcome == "correct"


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_wrong(sandbox: Sandbox, name: str) -> None:
    assert judge(sandbox, ATTACKS[name]).outcome == "wrong"


def test_endless_loop_is_named_as_the_processor_limit(sandbox: Sandbox) -> None:
    assert judge(sandbox, ATTACKS["loop in C"]).reason == "cpu_limit"


def test_memory_bomb_is_named_as_the_memory_limit(sandbox: Sandbox) -> None:
    assert judge(sandbox, ATTACKS["memory bomb"]).reason == "memory"


def test_state_does_not_leak_between_programs(sandbox: Sandbox) -> None:
    leave = Program("import builtins\nbuiltins.left = 1\ndef f(x): return x", "f", [[1]])
    look = Program("import builtins\ndef f(x): return hasattr(builtins, 'left')", "f", [[1]])
    assert [result.values for result in sandbox.run([leave, look])] == [[1], [False]]


def test_the_same_program_uses_the_same_fuel(sandbox: Sandbox) -> None:
    program = Program("def f(n):\n    return len({str(i) for i in range(n)})", "f", [[5000]])
    results = sandbox.run([program] * 4)
    assert len({result.fuel for result in results}) == 1
    assert results[0].values == [5000]


def test_clock_and_randomness_are_constants(sandbox: Sandbox) -> None:
    source = (
        "import os, random, time\ndef f():\n    return [random.random(), os.urandom(4).hex(), time.time(), hash('a'), "
        "time.monotonic(), time.perf_counter()]"
    )
    first, second = sandbox.run([Program(source, "f", [[]])] * 2)
    assert first.cause == "completed"
    assert first.values == second.values
