"""A copy of the project in which the documentation's commands are executed, its laptop profile at a reduced budget."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT
from tests.docs.blocks import Block
from tests.flows.test_laptop import SMALL

CODE = ("flows", "tasks", "nanbeige_core", "requirements")
FILES = ("pipelines.yaml", "pyproject.toml")
SECONDS = 300.0
_LESS = (
    "ingest.sources=[{type: packaged, name: stdlib-code, documents: 60, characters: 90000},"
    " {type: packaged, name: docstrings-math, documents: 40, characters: 60000},"
    " {type: packaged, name: codeio-programs, documents: 40, characters: 60000}]",
    "quality_tagging.annotated_documents=60",
    "problems.pretrain={math: 40, science: 40, code: 20, general: 10, agent: 10}",
    "problems.sft={math: 40, science: 40, code: 20, general: 0, agent: 0}",
    "problems.overall={math: 10, science: 10, code: 10, general: 10, agent: 10}",
)


class Sandbox:
    """A folder with the project's code, a `nanbeige` on the path, and a store of its own."""

    def __init__(self, folder: Path, api: str) -> None:
        self.folder, self.api = folder, api

    @classmethod
    def make(cls, folder: Path, api: str) -> "Sandbox":
        """Copy the code and write the reduced recipe."""
        for name in CODE:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy(ROOT / name, folder / name)
        recipe = folder / "pipelines.yaml"
        recipe.write_text(reduced(recipe.read_text(encoding="utf-8")), encoding="utf-8")
        programs = folder / "bin"
        programs.mkdir()
        _program(programs / "python", f'exec "{sys.executable}" "$@"')
        _program(programs / "nanbeige", f'exec "{sys.executable}" -m flows.cli "$@"')
        return cls(folder, api)

    def copy(self, folder: Path) -> "Sandbox":
        """Return a sandbox that starts where this one stands."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Sandbox(folder, self.api)

    def execute(self, block: Block) -> "subprocess.CompletedProcess[str]":
        """Execute a block as its mode says and check its exit status."""
        script = block.script.replace("nanbeige run", "nanbeige plan") if block.mode == "plan" else block.script
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(self.folder),
                "PREFECT_API_URL": self.api,
            },
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == block.exit_status, f"{block}\n{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def write(self, block: Block) -> None:
        """Write a block to the file its marker names."""
        (self.folder / block.argument).write_text(block.text, encoding="utf-8")

    def apply(self, block: Block) -> None:
        """Apply a block as a patch; its context must be found in the code as it is."""
        command = ["git", "apply", "--recount", "-C1", "-"]
        done = subprocess.run(command, cwd=self.folder, input=block.text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}: {done.stderr}"

    def follow(self, blocks: list[Block]) -> None:
        """Do what every block of a page says, in order; `check` blocks are left to their own test."""
        for block in blocks:
            if block.mode == "write":
                self.write(block)
            elif block.mode == "apply":
                self.apply(block)
            elif block.mode in ("run", "plan"):
                self.execute(block)


def reduced(text: str) -> str:
    """Write the reduced budget into the laptop profile of a recipe, and leave one sweep with two arms."""
    tree = yaml.safe_load(text)
    laptop = tree["profiles"]["laptop"]
    for override in (*SMALL, *_LESS):
        path, _, value = override.partition("=")
        head, *rest = path.split(".")
        if head == "shared":
            _put(laptop["shared"], rest, yaml.safe_load(value))
        else:
            _put(laptop["stages"], [head, "config", *rest], yaml.safe_load(value))
    name, sweep = next(iter(tree["sweeps"].items()))
    sweeps = {name: {**sweep, "arms": sweep["arms"][:2], "seeds": sweep["seeds"][:1]}}
    before, marker, after = text.partition("\n  laptop:\n")  # what a page patches stands above it, as it is
    behind = {key: profile for key, profile in tree["profiles"].items() if f"\n  {key}:\n" in marker[:-1] + after}
    return before + _profiles({"laptop": laptop, **behind}) + yaml.safe_dump({"sweeps": sweeps}, sort_keys=False)


def _profiles(profiles: dict[str, Any]) -> str:
    body = yaml.safe_dump(profiles, sort_keys=False, width=1000)
    return "\n" + "".join(f"  {line}\n" for line in body.splitlines())


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    *parents, last = path
    for name in parents:
        tree[name] = dict(tree.get(name) or {})  # an anchor's mapping is shared with other stages
        tree = tree[name]
    tree[last] = value


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)
