"""The reference of every stage and every value, written from the config models themselves as Markdown.

Meaning, bounds and default come from the pydantic field, the unit from the field's name, the source mark (paper, card,
derived, ours) from the end of its description. A field without a mark is an error: nobody could tell the report's
values from ours.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from nanbeige_core.contract import Runtime
from nanbeige_core.stages import STAGES, StageSpec

_MARK = re.compile(r"(?:^|[\s.;])(?P<mark>paper|card|derived|ours)(?P<more>(?::| \()[^.]*)?\.?$")
_UNITS = (
    (r"max_new_tokens|(^|_)tokens$|sequence_length|max_positions|divergence_chunk", "tokens"),
    (r"^(warmup|diverse_stable|hq_stable|decay)$", "tokens"),
    (r"characters", "characters"),
    (r"seconds", "seconds"),
    (r"(^|_)words$|_words$", "words"),
    (r"(share|fraction)$", "share, 0 to 1"),
    (r"batch_size$", "sequences"),
    (r"epochs$", "passes"),
    (r"(^|_)steps$", "optimiser steps"),
    (r"(_lr|learning_rate)$", "learning rate"),
    (r"documents$", "documents"),
    (r"(^|_)(prompts|problems|limit|prompts_per_step)$", "problems"),
    (r"(^|_)samples$|group_size|candidates$", "responses"),
)
_HEADER = """# Reference: stages and values

Generated from the config models by `nanbeige reference`; do not edit. A value is set in `pipelines.yaml` under
`stages.NAME.config`, under a profile, or with `--set NAME.field=value`. Sources: **paper** is the report, **card** a
model card or configuration file, **derived** is arithmetic on those, **ours** is stated nowhere and our choice.
"""
_COLUMNS = "| value | type | default | bounds | unit | source | meaning |\n| --- | --- | --- | --- | --- | --- | --- |"


def reference_markdown() -> str:
    """Return the whole page: every stage, the values several stages share, and the runtime.

    Raises ValueError naming the field when one carries no description or no source mark.
    """
    shared: dict[str, type[BaseModel]] = {}
    parts = [_HEADER, "## Stages\n"]
    described: dict[str, str] = {}
    for spec in STAGES.values():
        model = spec.config_class()
        parts.append(_stage_heading(spec))
        if model.__name__ in described:
            parts.append(f"Values: as [`{described[model.__name__]}`](#{described[model.__name__]}).\n")
            continue
        described[model.__name__] = spec.uses
        parts.append(_table(model, shared))
    parts.append("## Values that several stages share\n")
    done: set[str] = set()
    while pending := [name for name in shared if name not in done]:
        for name in pending:
            done.add(name)
            parts.append(f"### {name}\n\n{_first_line(shared[name])}\n\n{_table(shared[name], shared)}")
    parts.append(f"## Runtime\n\n{_first_line(Runtime)} Set with `--set NAME.runtime.field=value`.\n")
    parts.append(_runtime_table())
    return "\n".join(parts)


def source_mark(name: str, field: FieldInfo) -> tuple[str, str]:
    """Return a field's meaning without its source mark, and the mark with what it adds (`paper: the plain sum`)."""
    description = field.description or ""
    found = _MARK.search(description)
    if found is None:
        raise ValueError(
            f"config field {name} has the description {description!r}, expected one that ends with its source: paper, "
            "card, derived or ours. Add it in nanbeige_core/recipe/configs/."
        )
    return description[: found.start()].strip(), found["mark"] + (found["more"] or "")


def unit_of(name: str) -> str:
    """Return the unit a field's name stands for, or an empty text."""
    return next((unit for pattern, unit in _UNITS if re.search(pattern, name)), "")


def _stage_heading(spec: StageSpec) -> str:
    consumes = [
        f"{name} ({kind}{', optional' if name in spec.optional else ''})" for name, kind in spec.consumes.items()
    ]
    if spec.further:
        consumes.append(f"any further {spec.further}")
    return (
        f"### {spec.uses}\n\n{spec.title} ({spec.source}). {_first_line(spec.config_class())}\n\n"
        f"Reads: {', '.join(consumes) or 'nothing'}. Makes: {spec.produces}. Version {spec.version}.\n"
    )


def _table(model: type[BaseModel], shared: dict[str, type[BaseModel]]) -> str:
    schema = model.model_json_schema()["properties"]
    rows = [_row(model, name, schema[name], shared) for name in model.model_fields if "const" not in schema[name]]
    return "\n".join([_COLUMNS, *rows]) + "\n"


def _row(model: type[BaseModel], name: str, schema: dict[str, Any], shared: dict[str, type[BaseModel]]) -> str:
    field = model.model_fields[name]
    meaning, source = source_mark(f"{model.__name__}.{name}", field)
    nested = list(_models(field.annotation))
    shared.update({item.__name__: item for item in nested})
    kind = ", ".join(f"[{item.__name__}](#{item.__name__.lower()})" for item in nested) or _type_of(schema)
    default = "set by the stage" if field.is_required() else _default(field, bool(nested))
    cells = [f"`{name}`", kind, default, _bounds(schema), unit_of(name), source, meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _runtime_table() -> str:
    schema = Runtime.model_json_schema()["properties"]
    lines = ["| value | type | default | bounds | unit | meaning |", "| --- | --- | --- | --- | --- | --- |"]
    for name, field in Runtime.model_fields.items():
        cells = [f"`{name}`", _type_of(schema[name]), _default(field, False), _bounds(schema[name]), unit_of(name)]
        lines.append("| " + " | ".join([*cells, field.description or ""]) + " |")
    return "\n".join(lines) + "\n"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _type_of(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join("none" if item.get("type") == "null" else _type_of(item) for item in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type_of(schema.get('items') or {})}"
    return str(schema.get("type", "value")).replace("object", "mapping")


def _default(field: FieldInfo, nested: bool) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        changed = value.model_dump(mode="json", exclude_defaults=True)
        return f"`{json.dumps(changed)}`" if changed else "its own defaults"
    if nested:
        return f"{len(value)} entries"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _bounds(schema: dict[str, Any]) -> str:
    signs = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "exclusiveMaximum": "<",
        "minItems": "entries >=",
    }
    signs |= {"minLength": "length >="}
    options = [schema, *schema.get("anyOf", [])]
    return ", ".join(f"{sign} {option[key]:g}" for option in options for key, sign in signs.items() if key in option)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()
