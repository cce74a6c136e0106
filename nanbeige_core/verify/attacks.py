# ruff: noqa: E501
"""Programs that try to pass without solving the task, to break out, or to exhaust the machine.

The task is `f(x) = 3 x + 1`. An engine contains an attack when the program is judged wrong and the next honest
program is still judged right. Used by the tests of every engine and by `benchmarks/sandbox.py`.
"""

from typing import Any

SPEC: dict[str, Any] = {"entry": "f", "public": [[[2], 7]], "private": [[[5], 16], [[-1], -2]], "fuel": 300_000_000}
HONEST = "def f(x):\n    return 3 * x + 1"
ALWAYS_EQUAL = "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"

ATTACKS: dict[str, str] = {
    "fork": "import os\ndef f(x):\n    while True: os.fork()",
    "threads": "import threading\ndef f(x):\n    [threading.Thread(target=f, args=(x,)).start() for _ in range(99)]",
    "memory bomb": "def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 24))",
    "one big allocation": "def f(x):\n    return len(bytearray(10 ** 10))",
    "endless loop": "def f(x):\n    while True: pass",
    "loop in C": "def f(x):\n    return sum(range(10 ** 12))",
    "power tower": "def f(x):\n    return 9 ** 9 ** 9",
    "hanging regex": "import re\ndef f(x):\n    re.match('(a+)+$', 'a' * 64 + 'b')\n    return 3 * x + 1",
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
    '        m.encode = lambda *a: \'["bool", true], "id": "x"\'\ndef f(x): return 0',
    "printed success": "print('{\"cause\": \"completed\"}')\ndef f(x):\n    print('all tests passed')\n    return 0",
    "right on the first call only": "calls = []\ndef f(x):\n    calls.append(x)\n    return 7 if len(calls) == 1 else 0",
    "no function": "g = 1",
    "not Python": "def f(x:",
    "lone surrogate": "def f(x): return '\\ud800'",
}

SYSTEM_ATTACKS: dict[str, str] = {
    "fork bomb": "import os\ndef f(x):\n    for _ in range(10 ** 6):\n        try: os.fork()\n        except OSError: pass\n    return 0",
    "thread bomb": "import threading, time\ndef f(x):\n    for _ in range(10 ** 5):\n        threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n    return 0",
    "memory in many processes": "import os, time\ndef f(x):\n    for _ in range(20):\n        if os.fork() == 0:\n            a = []\n            while True: a.append(b'x' * (1 << 24))\n    time.sleep(3)\n    return 0",
    "file bomb": "def f(x):\n    with open('/tmp/x', 'wb') as file:\n        while True: file.write(b'x' * (1 << 20))",
    "inode bomb": "def f(x):\n    for n in range(10 ** 6): open(f'/tmp/{n}', 'w').close()",
    "deep tree": "import os\ndef f(x):\n    for _ in range(10 ** 6):\n        os.mkdir('d'); os.chdir('d')",
    "daemon": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n            while True: time.sleep(1)\n        os._exit(0)\n    return 0",
    "daemon that holds the pipe": "import os, time\ndef f(x):\n    if os.fork() == 0:\n        time.sleep(60)\n    os._exit(0)",
    "closes its pipes": "import os, time\ndef f(x):\n    os.closerange(3, 64)\n    time.sleep(100)",
    "all signals ignored": "import signal\ndef f(x):\n    for s in range(1, 65):\n        try: signal.signal(s, signal.SIG_IGN)\n        except (OSError, ValueError): pass\n    while True: pass",
    "stops itself": "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSTOP)",
    "kills everything": "import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)\n    return 0",
    "kills its parent": "import os, signal\ndef f(x):\n    os.kill(1, signal.SIGKILL); os.kill(os.getppid(), signal.SIGTERM)\n    return 0",
    "socket to the host": "import socket\ndef f(x):\n    socket.create_connection(('127.0.0.1', 22), 2)\n    return 3 * x + 1",
    "AF_VSOCK": "import socket\ndef f(x):\n    socket.socket(40, socket.SOCK_STREAM)\n    return 3 * x + 1",
    "netlink": "import socket\ndef f(x):\n    socket.socket(16, socket.SOCK_RAW)\n    return 3 * x + 1",
    "new user namespace": "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).unshare(0x10000000) == 0\n    return 3 * x + 1",
    "mount": "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0\n    return 3 * x + 1",
    "ptrace": "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0\n    return 3 * x + 1",
    "io_uring": "import ctypes\ndef f(x):\n    assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) >= 0\n    return 3 * x + 1",
    "becomes root": "import os\ndef f(x):\n    os.setuid(0)\n    return 3 * x + 1",
    "reads secrets": "import glob\ndef f(x):\n    assert glob.glob('/root/*') + glob.glob('/home/*') + glob.glob('/etc/shadow') + glob.glob('/mnt/*')\n    open('/etc/shadow').read()\n    return 3 * x + 1",
    "reads processes": "import os\ndef f(x):\n    assert [p for p in os.listdir('/proc') if p.isdigit()]\n    return 3 * x + 1",
    "writes the system": "def f(x):\n    open('/usr/x', 'w').write('x')\n    return 3 * x + 1",
    "patches the guest's files": "def f(x):\n    open('/guest/server.py', 'a').write('x')\n    return 3 * x + 1",
    "forged result on every descriptor": 'import os\nfor fd in range(3, 64):\n    try: os.write(fd, b\'{"id": "x", "value": ["int", "0x7"]}\\n\')\n    except OSError: pass\ndef f(x): return 0',
    "result before the question": 'import os, threading\ndef f(x):\n    for fd in range(3, 64):\n        try: os.write(fd, b\'{"id": "0", "value": ["int", "0x10"]}\\n\')\n        except OSError: pass\n    return 3 * x + 1',
    "expected values in memory": "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, (list, tuple)) and list(o) == [[5], 16]: return 16\n    return 7 if x == 2 else 0",
    "output bomb": "import os\ndef f(x):\n    for _ in range(10 ** 5):\n        os.write(1, b'x' * (1 << 20))\n    return 0",
    "numpy memory bomb": "import numpy\ndef f(x):\n    return int(numpy.ones(10 ** 10).sum())",
    "shared memory bomb": "def f(x):\n    with open('/dev/shm/x', 'wb') as file:\n        while True: file.write(b'x' * (1 << 20))",
}
"""Attacks that only make sense where processes, files and system calls exist."""
ORDINARY_SYSTEM = frozenset({"file read", "file write", "sleep", "subprocess"})
"""Of the first table, what is no attack where a program has a clock, a scratch directory and processes of its own."""
HONEST_SYSTEM: dict[str, str] = {
    "numpy": "import numpy\ndef f(x):\n    return int((numpy.array([3, 1]) * numpy.array([x, 1])).sum())",
    "threads": "import threading\ndef f(x):\n    out = []\n    ts = [threading.Thread(target=out.append, args=(x,)) for _ in range(3)]\n    [t.start() for t in ts]; [t.join() for t in ts]\n    return sum(out) + 1",
    "subprocess": "import subprocess, sys\ndef f(x):\n    return int(subprocess.run([sys.executable, '-c', f'print(3*{x}+1)'], capture_output=True, text=True).stdout)",
    "asyncio": "import asyncio\nasync def g(x):\n    await asyncio.sleep(0)\n    return 3 * x + 1\ndef f(x): return asyncio.run(g(x))",
    "temporary file": "import tempfile\ndef f(x):\n    with tempfile.NamedTemporaryFile('w+') as file:\n        file.write(str(3 * x + 1)); file.flush(); file.seek(0)\n        return int(file.read())",
    "processes": "import multiprocessing\ndef g(x): return 3 * x\ndef f(x):\n    with multiprocessing.get_context('fork').Pool(2) as pool:\n        return pool.map(g, [x])[0] + 1",
}
