"""Plain data that crosses the sandbox border: decoding of typed replies, and comparison with expected values.

Only exact builtin types exist on this side, rebuilt from JSON; nothing is unpickled or evaluated, so an object whose
`__eq__` always agrees cannot be sent.
"""

import math
from typing import Any

DEPTH = 40


class ProtocolViolation(ValueError):
    """The sandbox sent something that is not a typed reply."""


def decode(item: object, depth: int = 0) -> Any:
    """Rebuild a value from its typed form, e.g. `["int", "0x2a"]`; raise ProtocolViolation for anything else."""
    if depth > DEPTH or not isinstance(item, list) or not item or not isinstance(item[0], str):
        raise ProtocolViolation(f"not a typed value: {item!r:.80}")
    try:
        return _decode_kind(item[0], item[1:], depth)
    except ProtocolViolation:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise ProtocolViolation(f"malformed {item[0]}: {error}") from error


def _decode_kind(kind: str, body: list[Any], depth: int) -> Any:
    if kind == "none" and not body:
        return None
    (payload,) = body
    if kind == "bool" and isinstance(payload, bool):
        return payload
    if kind == "str" and isinstance(payload, str):
        return payload
    if kind == "int":
        return int(payload, 16)
    if kind == "float":
        return float.fromhex(payload)
    if kind == "bytes":
        return bytes.fromhex(payload)
    containers = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in containers and isinstance(payload, list):
        return containers[kind](decode(item, depth + 1) for item in payload)
    if kind == "dict" and isinstance(payload, list):
        return {decode(key, depth + 1): decode(value, depth + 1) for key, value in payload}
    raise ProtocolViolation(f"unknown kind {kind!r:.40}")


def same_value(found: Any, expected: Any) -> bool:
    """Compare a decoded value with an expected one that may come from JSON.

    A bool is not an int; a tuple equals a list of the same items, because JSON has no tuples; floats agree within a
    relative 1e-9 and never with an int result of another value.
    """
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        return type(found) is type(expected) and found == expected
    if isinstance(expected, (int, float)) and isinstance(found, (int, float)):
        if isinstance(expected, int) and isinstance(found, int):
            return found == expected
        return math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(found) == len(expected) and all(map(same_value, found, expected))
    if isinstance(expected, dict) and isinstance(found, dict):
        return found.keys() == expected.keys() and all(same_value(found[k], expected[k]) for k in expected)
    return type(found) is type(expected) and found == expected
