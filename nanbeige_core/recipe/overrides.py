"""Overrides from a terminal or a form: `stage.field=value`, `stage.runtime.field=value`, `shared.field=value`.

`stage.adopted=<fingerprint>` puts an adopted artifact in the stage's place; `stage.in.<input>=<stage>` reads another
stage, and `stage.in.<input>=null` none.
"""

import json
import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nanbeige_core.errors import RecipeError, nearest
from nanbeige_core.stages import STAGES

_ADOPTED = ".adopted"
_INPUT = re.compile(r"stages\.(\w+)\.in\.(\w+)")
_SHARED = re.compile(r"\$\{(shared(?:\.\w+)*)\}")


def apply_overrides(tree: DictConfig, overrides: list[str]) -> None:
    """Write each override into the merged recipe tree, in order.

    Raises RecipeError for a text without `=`, an unknown stage, or an unknown field; the nearest known name is given.
    """
    for text in overrides:
        full_path = _full_path(tree, _path_of(text), text)
        # a fingerprint is text, though 12345678e1234567 would also read as a number
        value = text.partition("=")[2]
        parsed = value.strip() if full_path.endswith(_ADOPTED) else _parse(value, text)
        try:
            _own_copies(tree, full_path.split("."))
            OmegaConf.update(tree, full_path, parsed, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError) as error:
            raise RecipeError(
                f"override {text!r} cannot be put into the recipe: {error}. Expected stage.field=value."
            ) from error


def touched_stages(tree: DictConfig, overrides: list[str]) -> set[str]:
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
        for name, values in tree.stages.items():
            read = _SHARED.findall(json.dumps(OmegaConf.to_container(values, resolve=False)))
            if any(_one_holds_the_other(full_path, reference) for reference in read):
                touched.add(str(name))
    return touched


def _require_upstream(tree: DictConfig, full_path: str, text: str) -> None:
    named = _parse(text.partition("=")[2], text)
    if _INPUT.fullmatch(full_path) and named is not None and named not in tree.stages:
        known = map(str, tree.stages)
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


def _own_copies(tree: DictConfig, parts: list[str]) -> None:
    """Replace interpolations on the way to a value by copies: a stage's override must not reach what it shares."""
    node: Any = tree
    for part in parts[:-1]:
        if not isinstance(node, DictConfig) or part not in node:
            return
        if OmegaConf.is_interpolation(node, part):
            node[part] = OmegaConf.create(OmegaConf.to_container(node[part], resolve=True))
        node = node[part]


def _full_path(tree: DictConfig, path: str, text: str) -> str:
    head, _, rest = path.partition(".")
    if head == "shared":
        _require_known(tree.shared, rest, text)
        return path
    if head not in tree.stages:
        known = [*map(str, tree.stages), "shared"]
        raise RecipeError(f"override {text!r} names the stage {head!r}, which the recipe lacks; {nearest(head, known)}")
    if rest.startswith("runtime.") or rest == "adopted":
        return f"stages.{head}.{rest}"
    uses = tree.stages[head].get("uses") or head
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


def _require_known(shared: Any, rest: str, text: str) -> None:
    node = shared
    for part in rest.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            known = [str(key) for key in node] if isinstance(node, DictConfig) else []
            raise RecipeError(f"override {text!r}: shared values have no {part!r}; {nearest(part, known)}")
        node = node[part]


def _parse(value: str, text: str) -> Any:
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2026-99-99 reads as a date that does not exist
        raise RecipeError(f"override {text!r}: the value is not valid YAML ({error})") from error
    if isinstance(parsed, str):
        try:
            return float(parsed)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            return parsed
    return parsed
