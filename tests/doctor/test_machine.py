from pathlib import Path

import pytest

from nanbeige_core.doctor import machine


def test_the_sandbox_is_judged_by_running_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_sandbox(tmp_path).level == "ok"
    monkeypatch.setattr("nanbeige_core.verify.component._version", broken)
    found = machine.check_sandbox(tmp_path)
    assert (found.level, "componentize-py is not installed" in found.found) == ("problem", True)


def broken(package: str) -> str:
    from nanbeige_core.verify.component import SandboxUnavailable

    raise SandboxUnavailable("package componentize-py is not installed")


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_disk(tmp_path / "not" / "made" / "yet").level == "ok"
    monkeypatch.setattr(machine, "LAPTOP_DISK_BYTES", 1e18)
    found = machine.check_disk(tmp_path)
    assert (found.level, "nanbeige gc" in found.remedy) == ("problem", True)


def test_a_store_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    assert machine.check_locks(tmp_path).level == "ok"
    assert not list((tmp_path / ".locks").iterdir())
    (tmp_path / "file").write_text("")
    assert machine.check_locks(tmp_path / "file").level == "problem"


def test_a_machine_without_apt_is_told_which_texts_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (found,) = machine.check_sources(tmp_path)
    assert found.level == "note"
    assert "manpages-zh" in found.found


@pytest.mark.parametrize(("written", "level", "text"), [("50000 100000", "note", "1 usable"), ("nonsense", None, "")])
def test_a_container_s_share_of_the_cores_is_counted(
    tmp_path: Path, written: str, level: str | None, text: str
) -> None:
    (tmp_path / "cpu.max").write_text(written)
    found = machine.check_cores(tmp_path / "cpu.max")
    without = machine.check_cores(tmp_path / "none")
    assert (found.level, found.found) == ((level, text) if level else (without.level, without.found))
