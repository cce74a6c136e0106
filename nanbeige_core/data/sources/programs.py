"""Python programs: the standard library of the running interpreter, and the CodeI/O programs of reasoning-gym."""

import ast
import gzip
import json
import sysconfig
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from nanbeige_core.data.sources.base import Member, PackagedText, Text

GRADES = ("clarity", "practice", "educational", "safety", "difficulty")
"""Grades 0-9 that a large code model gave each program; shipped with the rows."""


def list_stdlib(cache: Path) -> list[Member]:
    """Return the modules of the standard library without its tests, in name order."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "idle_test", "site-packages", "lib2to3", "__pycache__", "pydoc_data", "encodings"}
    files = [path for path in root.rglob("*.py") if not skipped & set(path.relative_to(root).parts)]
    return [Member(str(path.relative_to(root)), path.read_bytes()) for path in sorted(files)]


def parse_module(content: bytes) -> Iterator[Text]:
    """Yield each top-level function and class of a module, with its decorators and the comment above it."""
    source = content.decode("utf-8")
    lines = source.splitlines()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.end_lineno:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)]) - 1
            while first > 0 and lines[first - 1].startswith("#"):
                first -= 1
            yield Text("\n".join(lines[first : node.end_lineno]), part=node.name)


def list_codeio(cache: Path) -> list[Member] | None:
    """Return the graded CodeI/O rows of the installed reasoning-gym package."""
    spec = util.find_spec("reasoning_gym")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "data" / "codeio-hq.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = json.load(stream)
    return [Member(f"codeio-hq#{number}", json.dumps(row).encode()) for number, row in enumerate(rows)]


def parse_codeio(content: bytes) -> Iterator[Text]:
    """Yield a program under its task as a comment, with its grades as provenance."""
    row = json.loads(content)
    task = " ".join(str(row["task_description"]).split())
    grades = {name: int(row[name]) for name in GRADES if str(row.get(name, "")).isdigit()}
    yield Text(f"# Task: {task}\n{str(row['code_sample']).strip()}", extra={"grades": grades})


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


SOURCES = (
    PackagedText(
        "stdlib-code",
        "code",
        "code",
        "PSF-2.0",
        "stdlib",
        f"python {sysconfig.get_python_version()}",
        list_stdlib,
        parse_module,
        "functions and classes of the Python standard library",
    ),
    PackagedText(
        "codeio-programs",
        "code",
        "code",
        "Apache-2.0",
        "pypi",
        f"reasoning-gym {_version('reasoning-gym')}",
        list_codeio,
        parse_codeio,
        "cleaned programs with a task text and five grades of a large model",
    ),
)
