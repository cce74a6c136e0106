"""English technical prose that is on every machine: docstrings and read-me texts of installed packages."""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path

from nanbeige_core.data.sources.base import Member, PackagedText, Text

SHORTEST_DOCSTRING = 250
"""Shorter docstrings are signatures in prose."""


def package_modules(*packages: str) -> Callable[[Path], list[Member] | None]:
    """Return a lister of the modules of installed packages, tests left out, in name order."""

    def list_members(cache: Path) -> list[Member] | None:
        found: list[Member] = []
        for package in packages:
            spec = util.find_spec(package)
            for location in (spec.submodule_search_locations or []) if spec else []:
                root = Path(location)
                files = [path for path in root.rglob("*.py") if "tests" not in path.parts]
                found += [Member(f"{package}/{path.relative_to(root)}", path.read_bytes()) for path in sorted(files)]
        return found or None

    return list_members


def parse_docstrings(content: bytes) -> Iterator[Text]:
    """Yield the long docstrings of a module, its functions and its classes, each under its name."""
    try:
        tree = ast.parse(content.decode("utf-8"))
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            text = ast.get_docstring(node, clean=False) or ""
            if len(text) >= SHORTEST_DOCSTRING:
                name = "" if isinstance(node, ast.Module) else node.name
                yield Text(f"{name}\n\n{inspect.cleandoc(text)}".strip(), part=name)


def list_readmes(cache: Path) -> list[Member]:
    """Return the read-me text of every installed distribution that has one, in name order."""
    found: dict[str, Member] = {}
    for distribution in metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        # the text of METADATA after its first blank line is the read-me
        body = (distribution.read_text("METADATA") or "").partition("\n\n")[2]
        if name and body.strip():
            found[name] = Member(name, body.encode("utf-8", errors="replace"))
    return [found[name] for name in sorted(found)]


def parse_readme(content: bytes) -> Iterator[Text]:
    """Yield a read-me without images, badges and HTML tags."""
    text = content.decode("utf-8")
    text = re.sub(r"\[?!\[[^\]]*\]\([^)]*\)(?:\]\([^)]*\))?|<[^>\n]+>", "", text)
    yield Text(re.sub(r"\n{3,}", "\n\n", text))


SOURCES = (
    PackagedText(
        "docstrings-scientific",
        "paper",
        "en",
        "BSD-3-Clause",
        "pypi",
        "scipy, scikit-learn",
        package_modules("scipy", "sklearn"),
        parse_docstrings,
        "method descriptions with formulas and references; stands in for papers",
    ),
    PackagedText(
        "docstrings-math",
        "math",
        "en",
        "BSD-3-Clause",
        "pypi",
        "sympy",
        package_modules("sympy"),
        parse_docstrings,
        "definitions and worked examples of a computer algebra system",
    ),
    PackagedText(
        "package-readmes",
        "web",
        "en",
        "licence of each package",
        "pypi",
        "installed distributions",
        list_readmes,
        parse_readme,
        "read-me pages of the packages of this environment",
    ),
)
