"""Overrides from a terminal or a form: `stage.field=value`, `stage.runtime.field=value`, `shared.field=value`.

`stage.adopted=<fingerprint>` puts an adopted artifact in the stage's place; `stage.in.<input>=<stage>` reads another
stage, and `stage.in.<input>=null` none.
"""

import json
import re
from typing import Any, cast

import yaml
from omegaconf._yaml import BaseLoader  # yaml's safe loader, the compiled one where there is one

from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.recipe.tree import Tree, copied, is_reference, overlay, referred
from nanbeige_core.stages import STAGES

_ADOPTED = ".adopted"
_INPUT = re.compile(r"stages\.(\w+)\.in\.(\w+)")
_SHARED = re.compile(r"\$\{(shared(?:\.\w+)*)\}")


def apply_overrides(tree: Tree, overrides: list[str]) -> None:
    """Write each override into the merged recipe tree, in order.

    Raises RecipeError for a text without `=`, an unknown stage, or an unknown field; the nearest known name is given.
    """
    for text in overrides:
        full_path = _full_path(tree, _path_of(text), text)
        # a fingerprint is text, though 12345678e1234567 would also read as a number
        value = text.partition("=")[2]
        parsed = value.strip() if full_path.endswith(_ADOPTED) else _parse(value, text)
        try:
            _write(tree, full_path.split("."), parsed)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RecipeError(
                f"override {text!r} cannot be put into the recipe: {error}. Expected stage.field=value."
            ) from error


def touched_stages(tree: Tree, overrides: list[str]) -> set[str]:
    """Return the stages of a merged tree whose values the overrides can change.

    Raises RecipeError as `apply_overrides` does for what the tree does not know.
    """
    touched: set[str] = set()
    for text in overrides:
        full_path = _full_path(tree, _path_of(text), text)
        _require_upstream(tree, full_path, text)
        if full_path.startswith("stages."):
            touched.add(full_path.split(".")[1])
            continue
        for name, values in tree["stages"].items():
            read = _SHARED.findall(json.dumps(values, default=str))
            if any(_one_holds_the_other(full_path, reference) for reference in read):
                touched.add(str(name))
    return touched


def _require_upstream(tree: Tree, full_path: str, text: str) -> None:
    named = _parse(text.partition("=")[2], text)
    if _INPUT.fullmatch(full_path) and named is not None and named not in tree["stages"]:
        known = map(str, tree["stages"])
        raise RecipeError(
            f"override {text!r} reads stage {named!r}, which the recipe lacks; {nearest(str(named), known)}"
        )


def _one_holds_the_other(first: str, second: str) -> bool:
    return f"{first}.".startswith(f"{second}.") or f"{second}.".startswith(f"{first}.")


def _path_of(text: str) -> str:
    path, equals, _ = text.partition("=")
    if not equals or "." not in path:
        raise RecipeError(
            f"override {text!r} is not of the form stage.field=value, for example dpd.beta=0.2 or "
            "rl_stem.runtime.processes=2"
        )
    return path.strip()


def _write(tree: Tree, parts: list[str], value: Any) -> None:
    """Write a value at its place; what is only referred to on the way there becomes the stage's own copy."""
    node: Any = tree
    for part in parts[:-1]:
        key = _key(node, part)
        below: Any = node[key] if isinstance(node, list) else node.get(key)
        if is_reference(below):
            below = copied(referred(tree, below))
        node[key] = below if isinstance(below, dict | list) else {}
        node = node[key]
    last = _key(node, parts[-1])
    before: Any = node[last] if isinstance(node, list) else node.get(last)
    node[last] = value if is_reference(before) else overlay(before, value, tree)


def _key(node: Any, part: str) -> Any:
    """Return a part of a path as the key it is in `node`: lists are entered by number."""
    if not isinstance(node, list):
        return part
    known = [str(number) for number in range(len(cast(list[Any], node)))]
    if part not in known:
        raise RecipeError(f"a list of {len(known)} is entered by number, from 0; found {part!r}")
    return int(part)


def _full_path(tree: Tree, path: str, text: str) -> str:
    head, _, rest = path.partition(".")
    if head == "shared":
        _require_known(tree, rest, text)
        return path
    if head not in tree["stages"]:
        known = [*map(str, tree["stages"]), "shared"]
        raise RecipeError(f"override {text!r} names the stage {head!r}, which the recipe lacks; {nearest(head, known)}")
    if rest.startswith("runtime.") or rest == "adopted":
        return f"stages.{head}.{rest}"
    uses = tree["stages"][head].get("uses") or head
    if rest.startswith("in."):
        known = STAGES[uses].consumes if uses in STAGES else {}
        if (name := rest.removeprefix("in.")) not in known:
            raise RecipeError(f"override {text!r}: stage {head} has no input {name!r}; {nearest(name, known)}")
        return f"stages.{head}.{rest}"
    rest = rest.removeprefix("config.")
    fields = STAGES[uses].config_class().model_fields if uses in STAGES else {}
    first = rest.split(".")[0]
    if fields and first not in fields:
        raise RecipeError(f"override {text!r}: stage {head} has no field {first!r}; {nearest(first, fields)}")
    return f"stages.{head}.config.{rest}"


def _require_known(tree: Tree, rest: str, text: str) -> None:
    node: Any = tree["shared"]
    for part in rest.split("."):
        names = cast(Tree, node) if isinstance(node, dict) else {}
        if part not in names:
            raise RecipeError(f"override {text!r}: shared values have no {part!r}; {nearest(part, map(str, names))}")
        node = referred(tree, names[part])


def _parse(value: str, text: str) -> Any:
    try:
        parsed = yaml.load(value, Loader=BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-99-99 reads as a date that does not exist
        raise RecipeError(f"override {text!r}: the value is not valid YAML ({error})") from error
    if isinstance(parsed, str):
        try:
            return float(parsed)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            return parsed
    return parsed
