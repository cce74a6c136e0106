"""Installed Python packages against the lock and against the ranges the project declares."""

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from nanbeige_core.doctor.finding import Finding

PYTHON = (">= 3.11, < 3.13", (3, 11), (3, 13))
_REMEDY = "`make setup` installs the lock; or `pip install --no-deps -r requirements/cpu.txt`"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", re.MULTILINE)


def check_python() -> Finding:
    """Compare the interpreter with the range the project supports."""
    text, low, high = PYTHON
    found = ".".join(map(str, sys.version_info[:3]))
    if low <= sys.version_info[:2] < high:
        return Finding("Python", "ok", found)
    return Finding(
        "Python", "problem", f"{found}, expected {text}", "make a virtual environment of Python 3.11 or 3.12"
    )


def check_packages(root: Path) -> list[Finding]:
    """Compare what is installed with `requirements/cpu.txt` (exact) and `pyproject.toml` (ranges).

    A missing package, and one outside the declared range, is a problem; another version inside the range is a note.
    """
    lock_file = root / "requirements" / "cpu.txt"
    if not lock_file.exists():
        return [Finding("packages", "note", f"no lock at {lock_file}", "run from a checkout to compare with its lock")]
    lock = dict(_PIN.findall(lock_file.read_text(encoding="utf-8")))
    installed = {name: _installed(name) for name in lock}
    missing = sorted(name for name, version in installed.items() if version is None)
    other = {name: v for name, v in installed.items() if v is not None and not _same(v, lock[name])}
    findings: list[Finding] = []
    if missing:
        findings.append(Finding("packages", "problem", f"not installed: {_listed(missing)}", _REMEDY))
    if other:
        words = [f"{name} {version} (lock {lock[name]})" for name, version in sorted(other.items())]
        findings.append(Finding("packages", "note", f"other than the lock: {_listed(words)}", _REMEDY))
    if not findings:
        findings.append(Finding("packages", "ok", f"all {len(lock)} of the lock, each in the locked version"))
    return findings + check_ranges(root)


def check_ranges(root: Path) -> list[Finding]:
    """Compare the packages the project names with its declared ranges; Prefect and FastAPI are always reported."""
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    findings: list[Finding] = []
    for requirement in map(Requirement, declared):
        version = _installed(requirement.name)
        if version is None:
            continue  # the lock names it too, so it was reported as missing
        shown = requirement.name in ("prefect", "fastapi")
        if not requirement.specifier.contains(version, prereleases=True):
            why = " (later releases break the Prefect server)" if requirement.name == "fastapi" else ""
            found = f"{version}, expected {requirement.specifier}{why}"
            remedy = f'pip install --no-deps "{requirement.name}{requirement.specifier}"'
            findings.append(Finding(requirement.name, "problem", found, remedy))
        elif shown:
            findings.append(Finding(requirement.name, "ok", f"{version}, within {requirement.specifier}"))
    return findings


def check_vllm() -> Finding:
    """Say whether the vLLM engine can be had; no profile of this machine needs it."""
    version = _installed("vllm")
    if version:
        return Finding("vLLM", "ok", version)
    return Finding("vLLM", "note", "not installed; the transformers engine generates", "pip install '.[vllm]'")


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _same(found: str, locked: str) -> bool:
    return Version(found).public == Version(locked).public


def _listed(words: list[str]) -> str:
    shown = 12
    return ", ".join(words[:shown]) + (f" and {len(words) - shown} more" if len(words) > shown else "")
