"""Check a shell block without executing it: syntax, commands, options, overrides and make targets."""

import re
import shlex
import subprocess
from functools import cache
from typing import Any

import typer

from flows.cli import app
from nanbeige_core.recipe.load import load_recipe
from tests.conftest import RECIPE_FILE, ROOT

_HEREDOC = re.compile(r"<<-?\s*'?(\w+)'?[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
_ENDS = {"&&", "||", ";", "|", "&"}


def problems_of(script: str) -> list[str]:
    """Return what is wrong with a script, empty when nothing is."""
    parsed = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    found = [parsed.stderr.strip()] if parsed.returncode else []
    for words in commands_of(script):
        program = words[0].rsplit("/", 1)[-1]
        if program == "nanbeige":
            found += nanbeige_problems(words[1:])
        elif program == "make":
            found += make_problems(words[1:])
    return found


def commands_of(script: str) -> list[list[str]]:
    """Return the simple commands of a script as words; bodies of here-documents are left out."""
    commands: list[list[str]] = []
    pending = ""
    for line in _HEREDOC.sub("", script).replace("\\\n", " ").splitlines():
        pending += line + "\n"
        try:
            words = list(_lexer(pending))
        except ValueError:  # a quotation that goes on in the next line
            continue
        pending = ""
        commands.append([])
        for word in words:
            if word in _ENDS:
                commands.append([])
            else:
                commands[-1].append(word)
    return [words for words in commands if words]


def _lexer(text: str) -> shlex.shlex:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    return lexer


def nanbeige_problems(arguments: list[str]) -> list[str]:
    """Parse arguments as the command line does, and load the recipe with the overrides they carry."""
    group: Any = typer.main.get_command(app)
    if not arguments or arguments[0].startswith("--"):
        known = {option for parameter in group.params for option in parameter.opts} | {"--help"}
        return [f"nanbeige has no option {word}" for word in arguments if word not in known]
    command = group.commands.get(arguments[0])
    if command is None:
        return [f"nanbeige has no command {arguments[0]}; known: {', '.join(sorted(group.commands))}"]
    try:
        values = command.make_context(arguments[0], list(arguments[1:])).params
        _load(values.get("profile") or "laptop", tuple(values.get("overrides") or ()))
    except Exception as error:
        return [f"nanbeige {shlex.join(arguments)}: {type(error).__name__}: {error}"]
    return []


@cache
def _load(profile: str, overrides: tuple[str, ...]) -> None:
    load_recipe(RECIPE_FILE, profile=profile, overrides=list(overrides))


def make_problems(arguments: list[str]) -> list[str]:
    """Look for each target in the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in arguments if "=" not in word and not word.startswith("-")]
    return [f"make has no target {name}" for name in targets if not re.search(rf"^{re.escape(name)}:", text, re.M)]
