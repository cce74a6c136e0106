from importlib.metadata import version
from pathlib import Path

from nanbeige_core.doctor.packages import check_packages, check_python


def project(tmp_path: Path, lock: str, dependencies: list[str]) -> Path:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/cpu.txt").write_text(lock)
    (tmp_path / "pyproject.toml").write_text(f"[project]\ndependencies = {dependencies}\n")
    return tmp_path


def test_this_interpreter_is_supported() -> None:
    assert check_python().level == "ok"


def test_a_missing_package_is_a_problem_with_a_remedy(tmp_path: Path) -> None:
    found = check_packages(project(tmp_path, "# lock\nno-such-package-here==1.0\n", []))
    assert [(item.level, item.found) for item in found] == [("problem", "not installed: no-such-package-here")]
    assert "make setup" in found[0].remedy


def test_another_version_within_the_range_is_a_note_and_outside_a_problem(tmp_path: Path) -> None:
    lock = f"fastapi==0.0.1\nprefect=={version('prefect')}\n"
    found = check_packages(project(tmp_path, lock, ["fastapi<0.2", "prefect>=3"]))
    assert [(item.subject, item.level) for item in found] == [
        ("packages", "note"),
        ("fastapi", "problem"),
        ("prefect", "ok"),
    ]
    assert "break the Prefect server" in found[1].found
