"""A recipe as plain dictionaries: read from YAML, laid over one another, interpolated.

OmegaConf reads and interpolates. It wraps every node in an object of its own, which takes longer than all the rest of a
plan, so it is handed a tree once, when everything is merged and overridden.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf
from omegaconf._yaml import get_yaml_loader  # its limits on aliases, its floats, and no key twice
from omegaconf.errors import OmegaConfBaseException

from nanbeige_core.errors import RecipeError, nearest

Tree = dict[str, Any]
_MARK = "${"
_ENVIRONMENT = re.compile(r"\$\{\s*oc\.env\b")
_TO_SHARED = re.compile(r"\$\{shared(\.\w+)*\}")


def read_text(path: Path) -> str:
    """Return a recipe file's text; raise RecipeError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise RecipeError(f"no recipe file at {path}; pass --file or run in the project's folder") from error
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error


def parse_tree(text: str, path: Path) -> Tree:
    """Return the tree of a recipe file as written, interpolations unresolved; raise RecipeError for what is no YAML."""
    require_no_environment(text, str(path))
    try:
        tree: Any = yaml.load(text, Loader=get_yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        found = "a list" if isinstance(tree, list) else repr(tree)[:60]
        raise RecipeError(f"{path} holds {found}; a recipe is a mapping with the keys recipe, stages and profiles")
    return copied(cast(Tree, tree))


def require_no_environment(text: str, place: str) -> None:
    """Refuse values from environment variables: they would be fingerprinted, and kept in every manifest."""
    if _ENVIRONMENT.search(text):
        raise RecipeError(
            f"{place} takes a value from an environment variable (oc.env): what a recipe says must stand in it, and "
            "a secret must not be. Write the value, or pass it with --set."
        )


def copied(value: Any) -> Any:
    """Return a copy that shares no dictionary or list with `value`, nor part with part (as YAML anchors do)."""
    if isinstance(value, dict):
        return {name: copied(item) for name, item in cast(Tree, value).items()}
    if isinstance(value, list):
        return [copied(item) for item in cast(list[Any], value)]
    return value


def overlay(base: Any, over: Any, root: Tree) -> Any:
    """Return `base` with `over` laid on it: dictionaries merge, everything else is replaced.

    Where `base` refers to a dictionary elsewhere in `root` and `over` changes a part of it, it changes here only.
    """
    if not isinstance(over, dict):
        return copied(over)
    below: Any = referred(root, base)
    if not isinstance(below, dict):
        return copied(over)
    merged: Tree = copied(below)
    for name, value in cast(Tree, over).items():
        merged[name] = overlay(merged[name], value, root) if name in merged else copied(value)
    return merged


def is_reference(value: Any) -> bool:
    """Tell whether a value is text with an interpolation in it."""
    return isinstance(value, str) and _MARK in value


def referred(root: Tree, value: Any) -> Any:
    """Return what a value stands for in `root`: the value itself unless it is an interpolation."""
    return _value_of(value, root) if is_reference(value) else value


def resolved(tree: Tree, path: Path) -> Tree:
    """Return the tree with every interpolation replaced; raise RecipeError for one that leads nowhere.

    Where all of them are whole values that name a shared one, as in the shipped recipe, they are looked up; OmegaConf
    does all others.
    """
    texts = list(dict.fromkeys(_references(tree)))
    try:
        if all(_TO_SHARED.fullmatch(text) for text in texts):
            return _filled(tree, {text: _looked_up(text, tree) for text in texts})
        return _plain(tree)
    except (OmegaConfBaseException, LookupError) as error:
        raise RecipeError(f"{path}: an interpolation cannot be resolved: {str(error).splitlines()[0]}") from error


def _looked_up(text: str, root: Tree, through: tuple[str, ...] = ()) -> Any:
    """Return the value a `${shared.name}` stands for, itself resolved; raise LookupError where there is none."""
    if text in through:
        raise LookupError(f"{' -> '.join((*through, text))} leads back to itself")
    value: Any = root
    for part in text[2:-1].split("."):
        if is_reference(value):
            value = _looked_up(value, root, (*through, text))
        known = cast(Tree, value) if isinstance(value, dict) else {}
        if part not in known:
            raise LookupError(f"{text}: there is no {part!r}; {nearest(part, known)}")
        value = known[part]
    return _filled(value, {inner: _looked_up(inner, root, (*through, text)) for inner in _references(value)})


def _value_of(text: str, root: Tree) -> Any:
    holder = "_value"  # no recipe has this key: all of a recipe's are known
    return _plain({**root, holder: {"value": text}})[holder]["value"]


def _plain(tree: Tree) -> Tree:
    found: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    return {str(key): value for key, value in found.items()}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in cast(Tree, value).values():
            yield from _references(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            yield from _references(item)
    elif is_reference(value):
        yield value


def _filled(value: Any, values: Tree) -> Any:
    if isinstance(value, dict):
        return {str(name): _filled(item, values) for name, item in cast(Tree, value).items()}
    if isinstance(value, list):
        return [_filled(item, values) for item in cast(list[Any], value)]
    return copied(values[value]) if is_reference(value) else value
