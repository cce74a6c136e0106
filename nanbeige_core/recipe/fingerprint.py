"""Fingerprints: a canonical encoding of what an artifact is, hashed.

The encoding raises on anything whose text form is not stable across processes, machines and versions, instead of
falling back to `repr`. A field that is added to a config later, marked with `added_field`, leaves old fingerprints
valid as long as it stands at its default.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel, Field

_ADDED = "fingerprint_added"


def added_field(default: Any, **field_arguments: Any) -> Any:
    """Declare a config field that joined after artifacts existed: at its default it is not fingerprinted."""
    return Field(default, json_schema_extra={_ADDED: True}, **field_arguments)


def identity_values(config: BaseModel) -> dict[str, Any]:
    """Return a config's fields as plain values, without added fields that stand at their default."""
    values: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get(_ADDED) and value == field.get_default(call_default_factory=True):
            continue
        values[name] = _plain(value, name)
    return values


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical encoding of `identity`.

    Raises TypeError for a value without a stable encoding and ValueError for a number that is not finite.
    """
    return hashlib.sha256(canonical(identity).encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """Encode plain data as JSON with sorted keys, no spaces, and shortest round-trip floats."""
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any, place: str) -> Any:
    if isinstance(value, BaseModel):
        return identity_values(value)
    if isinstance(value, Enum):
        return _plain(value.value, place)
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return _plain_float(value, place)
    if isinstance(value, list | tuple):
        return [_plain(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_plain_key(key, place): _plain(item, f"{place}.{key}") for key, item in value.items()}
    raise TypeError(
        f"{place} holds a {type(value).__name__}, which has no encoding that is stable across processes; "
        "fingerprints take None, bool, int, finite float, str, enums, lists, mappings and config models. "
        "Store a plain value in the config instead."
    )


def _plain_float(value: float, place: str) -> float | int:
    if not math.isfinite(value):
        raise ValueError(f"{place} is {value}: only finite numbers can identify an artifact")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _plain_key(key: Any, place: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{place} has the key {key!r} of type {type(key).__name__}; keys must be strings")
    return key
