"""What a program's interpreter answers, read by whoever holds it: the rules are those of both sandbox engines.

Only the standard library: the fork server loads this file inside a root file system that has no project in it.
"""

import json
from typing import Any

REPLY_BYTES = 8 << 20
"""Longest reply."""


class Stop(Exception):
    """A program ended before its last input, with a cause of `ProgramResult.cause` and one line of detail."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def read_reply(reply: str | bytes, request: str) -> Any:
    """Return the typed value of a reply, or raise Stop when it is an error or not ours."""
    try:
        content = json.loads(reply)
    except (ValueError, RecursionError) as error:
        raise Stop("protocol", "the reply is not JSON") from error
    if not isinstance(content, dict) or content.get("id") != request:
        raise Stop("protocol", "the reply carries another request's id")
    if "error" in content:
        detail = str(content["error"])[:200]
        named = {"MemoryError: output limit": "output_limit"}
        raise Stop(named.get(detail, "memory" if detail.startswith("MemoryError") else "error"), detail)
    return content.get("value", ["none"])
