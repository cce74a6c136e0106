# ruff: noqa: E501
"""Programs that try to pass without solving the task, to break out, or to exhaust the machine."""

import pytest

from nanbeige_core.verify.code_verifier import CodeVerifier
from nanbeige_core.verify.sandbox import Program, Sandbox
from nanbeige_core.verify.verdict import Verdict, VerificationRequest

SPEC = {"entry": "f", "public": [[[2], 7]], "private": [[[5], 16], [[-1], -2]], "fuel": 300_000_000}
HONEST = "def f(x):\n    return 3 * x + 1"
ALWAYS_EQUAL = "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"

ATTACKS = {
    "fork": "import os\ndef f(x):\n    while True: os.fork()",
    "threads": "import threading\ndef f(x):\n    [threading.Thread(target=f, args=(x,)).start() for _ in range(99)]",
    "memory bomb": "def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 24))",
    "one big allocation": "def f(x):\n    return len(bytearray(10 ** 10))",
    "endless loop": "def f(x):\n    while True: pass",
    "loop in C": "def f(x):\n    return sum(range(10 ** 12))",
    "power tower": "def f(x):\n    return 9 ** 9 ** 9",
    "loop that catches everything": "def f(x):\n    while True:\n        try:\n            while True: pass\n"
    "        except BaseException: pass",
    "endless loop at import": "while True: pass",
    "deep recursion": "def f(x):\n    return f(x)",
    "recursion in C": "def f(x):\n    a = []\n    for _ in range(10 ** 6): a = [a]\n    return repr(a)",
    "huge result": "def f(x):\n    return 'a' * (64 << 20)",
    "huge output": "def f(x):\n    while True: print('a' * 10 ** 6)",
    "self-containing result": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "socket": "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 22))\n    return 3 * x + 1",
    "file write": "def f(x):\n    open('/tmp/x', 'w').write('x')\n    return 3 * x + 1",
    "file read": "def f(x):\n    open('/etc/passwd').read()\n    return 3 * x + 1",
    "subprocess": "import subprocess\ndef f(x):\n    subprocess.run(['true'])\n    return 3 * x + 1",
    "sleep": "import time\ndef f(x):\n    time.sleep(30)\n    return 3 * x + 1",
    "early exit": "import os\ndef f(x):\n    os._exit(0)",
    "early exit at import": "import os\nos._exit(0)",
    "sys.exit": "import sys\ndef f(x):\n    sys.exit(0)",
    "abort": "import os\ndef f(x):\n    os.abort()",
    "always equal": ALWAYS_EQUAL + "def f(x): return E(0)",
    "always equal object": "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "float that is an int": "def f(x): return str(3 * x + 1)",
    "true for one": "def f(x): return True",
    "expected values by frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
    "        for value in frame.f_locals.values():\n"
    "            if isinstance(value, dict) and 'private' in value: return value\n        frame = frame.f_back",
    "expected values by gc": "import gc\ndef f(x):\n    return [o for o in gc.get_objects() if o == [[5], 16]][0][1]",
    "forged reply": 'import json\njson.dumps = lambda value: \'{"id": "x", "value": ["bool", true]}\'\ndef f(x): return 0',
    "patched guest": "import sys\nfor m in list(sys.modules.values()):\n    if hasattr(m, 'encode') and hasattr(m, 'WitWorld'):\n"
    "        m.encode = lambda *a: ['object', 'anything']\ndef f(x): return 0",
    "printed success": "print('{\"cause\": \"completed\"}')\ndef f(x):\n    print('all tests passed')\n    return 0",
    "right on the first call only": "calls = []\ndef f(x):\n    calls.append(x)\n    return 7 if len(calls) == 1 else 0",
    "no function": "g = 1",
    "not Python": "def f(x:",
    "lone surrogate": "def f(x): return '\\ud800'",
}


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
        "import os, random, time\ndef f():\n    return [random.random(), os.urandom(4).hex(), time.time(), hash('a')]"
    )
    first, second = sandbox.run([Program(source, "f", [[]])] * 2)
    assert first.cause == "completed"
    assert first.values == second.values
