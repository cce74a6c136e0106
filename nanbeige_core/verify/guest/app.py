"""The program that runs inside the WebAssembly sandbox: it holds untrusted code and answers with plain data.

Nothing here is trusted by the host. Expected values never enter this interpreter, so a solution that patches this
module, walks frames or forges replies can still only answer, never grade (design of sandbox split interpreters).
Modules must be imported while the component is built: at run time the guest has no file system to import from.
"""

import abc  # noqa: F401
import array  # noqa: F401
import base64  # noqa: F401
import bisect  # noqa: F401
import collections  # noqa: F401
import copy  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import enum  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import gc  # noqa: F401
import hashlib  # noqa: F401
import heapq  # noqa: F401
import inspect  # noqa: F401
import io
import itertools  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import os  # noqa: F401
import random
import re  # noqa: F401
import statistics  # noqa: F401
import string  # noqa: F401
import sys
import textwrap  # noqa: F401
import time  # noqa: F401
import traceback  # noqa: F401
import types
import typing  # noqa: F401
import unicodedata  # noqa: F401

import wit_world  # pyright: ignore

sys.setrecursionlimit(2000)
OUTPUT_BYTES = 4 << 20
DEPTH = 40


def encode(value: object, depth: int = 0) -> list[object]:
    """Write `value` as typed plain data; refuse every type but the exact builtins."""
    if depth > DEPTH:
        raise ValueError("result is nested too deeply")
    kind = type(value)
    if value is None:
        return ["none"]
    if kind is bool:
        return ["bool", value]
    if kind is int:
        return ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind is str:
        return ["str", value]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind in (list, tuple, set, frozenset):
        return [kind.__name__, [encode(item, depth + 1) for item in value]]
    if kind is dict:
        return ["dict", [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]]
    raise TypeError(f"result has type {kind.__name__}, which is not plain data")


class Discard(io.TextIOBase):
    """Swallow what a function prints; only its result counts."""

    def write(self, text: str) -> int:
        """Drop `text` and report it written."""
        return len(text)


class Bounded(io.StringIO):
    """Keep what a script prints, up to a bound."""

    def write(self, text: str) -> int:
        """Append `text`, or stop the script when the bound is passed."""
        if self.tell() + len(text) > OUTPUT_BYTES:
            raise MemoryError("output limit")
        return super().write(text)


def describe(error: BaseException) -> str:
    """Name an exception in at most 200 characters."""
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return "an exception that cannot be printed"


def fresh_module(name: str) -> types.ModuleType:
    """Return an empty module registered under `name`, as dataclasses and typing expect."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


class WitWorld(wit_world.WitWorld):
    """Hold one program: the module after `define`, and its entry point."""

    entry: object = None

    def define(self, request_id: str, source: str, entry: str) -> str:
        """Execute the module body of `source` and remember its `entry`."""
        random.seed(0)
        sys.stdout = sys.stderr = Discard()
        try:
            module = fresh_module("solution")
            exec(compile(source, "solution", "exec"), module.__dict__)
            WitWorld.entry = module.__dict__[entry]
            if not callable(WitWorld.entry):
                raise TypeError(f"{entry} is not callable")
        except KeyError:
            return json.dumps({"id": request_id, "error": f"NameError: the program defines no {entry}"})
        except BaseException as error:
            return json.dumps({"id": request_id, "error": describe(error)})
        return json.dumps({"id": request_id, "ok": True})

    def call(self, request_id: str, arguments: str) -> str:
        """Call the entry with the JSON list `arguments` and write its result as typed data."""
        try:
            value = encode(WitWorld.entry(*json.loads(arguments)))  # pyright: ignore
        except BaseException as error:
            return json.dumps({"id": request_id, "error": describe(error)})
        return json.dumps({"id": request_id, "value": value})

    def script(self, request_id: str, source: str, stdin: str) -> str:
        """Run `source` as `__main__` reading `stdin`; answer what it printed."""
        random.seed(0)
        kept = Bounded()
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(stdin), kept, Discard()
        try:
            exec(compile(source, "main", "exec"), fresh_module("__main__").__dict__)
        except SystemExit as error:
            if error.code not in (None, 0):
                return json.dumps({"id": request_id, "error": describe(error)})
        except BaseException as error:
            return json.dumps({"id": request_id, "error": describe(error)})
        return json.dumps({"id": request_id, "value": ["str", kept.getvalue()]})
