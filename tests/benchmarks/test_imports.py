"""Benchmarks are run by hand, so nothing else would notice that what they import has moved."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = ("nanbeige_core", "flows", "tasks", "benchmarks")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_the_project_is_there(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            if node.module.startswith("benchmarks"):
                assert (ROOT / f"{node.module.replace('.', '/')}.py").exists(), node.module
                continue
            module = import_module(node.module)
            for name in node.names:
                place = f"{path.name}, line {node.lineno}: {node.module}.{name.name}"
                assert hasattr(module, name.name) or _is_module(node.module, name.name), place


def _is_module(package: str, name: str) -> bool:
    return (ROOT / package.replace(".", "/") / f"{name}.py").exists()
