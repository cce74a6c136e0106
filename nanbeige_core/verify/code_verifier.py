"""Judge programs: every public and private test must pass in a fresh interpreter inside the sandbox."""

import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from nanbeige_core.verify.answer import final_part
from nanbeige_core.verify.sandbox import FUEL_PER_TEST, Needs, Program, ProgramResult, Sandbox, open_sandbox
from nanbeige_core.verify.typed_data import same_value
from nanbeige_core.verify.verdict import Verdict, VerificationRequest

LONGEST_SOURCE = 20_000
"""characters"""
FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


class Tests(NamedTuple):
    """What a spec asks for: the entry (None for scripts), inputs, and expected values that stay in this process."""

    entry: str | None
    inputs: list[Any]
    expected: list[Any]
    fuel: int
    needs: Needs = "stdlib"


def read_tests(row: VerificationRequest) -> Tests:
    """Read `{"entry", "public", "private"}` (function) or `{"style": "stdin", ...}` (script).

    Raises ValueError for a spec without tests, with one that is no pair of input and expected value, or without fuel.
    """
    spec = row.spec
    pairs = [*spec.get("public", []), *spec.get("private", [])]
    scripted = spec.get("style") == "stdin"
    if not pairs or not (scripted or isinstance(spec.get("entry"), str)):
        raise ValueError(
            f"prompt {row.prompt_id}: spec has {len(pairs)} tests and entry {spec.get('entry')!r}, expected at "
            "least one test and the name of a function: without tests every program would pass. Rebuild the prompt set."
        )
    bad = next((number for number, pair in enumerate(pairs) if not _is_test(pair, scripted=scripted)), None)
    fuel = spec.get("fuel", FUEL_PER_TEST)
    if bad is not None or not isinstance(fuel, int) or fuel <= 0:
        found = f"fuel {fuel!r}" if bad is None else f"{pairs[bad]!r:.80} as test {bad}"
        raise ValueError(
            f"prompt {row.prompt_id}: spec has {found}, expected a positive number of instructions, and tests that "
            f"are [{'text, text' if scripted else 'list of arguments, value'}]: no program could pass. Rebuild the "
            "prompt set."
        )
    inputs, expected = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    needs: Needs = "system" if spec.get("needs") == "system" else "stdlib"
    return Tests(None if scripted else spec["entry"], inputs, expected, fuel, needs)


def _is_test(pair: Any, *, scripted: bool) -> bool:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:  # pyright: ignore[reportUnknownArgumentType]
        return False
    return isinstance(pair[0], str) and isinstance(pair[1], str) if scripted else isinstance(pair[0], (list, tuple))


def extract_program(response: str) -> str | None:
    """Return the last fenced block after the thinking, or None."""
    blocks = FENCE.findall(final_part(response))
    return blocks[-1] if blocks and blocks[-1].strip() else None


class CodeVerifier:
    """Runs programs in the sandbox and compares their values here."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def verify(self, rows: Sequence[VerificationRequest]) -> list[Verdict]:
        """Return one verdict per row; equal programs with equal tests run once."""
        plans = [plan(row) for row in rows]
        unique: dict[str, list[Program]] = {}
        for item in plans:
            if isinstance(item, tuple):
                unique.setdefault(item[0], programs_of(item[1], item[2]))
        flat = [program for group in unique.values() for program in group]
        results = iter(self._sandbox.run(flat))
        found = {key: [next(results) for _ in group] for key, group in unique.items()}
        return [item if isinstance(item, Verdict) else judge(found[item[0]], item[2]) for item in plans]


def plan(row: VerificationRequest) -> Verdict | tuple[str, str, Tests]:
    """Return the verdict of a response without a program, or its key, source and tests."""
    tests = read_tests(row)
    if row.truncated:
        return Verdict("wrong", "truncated", "extract")
    source = extract_program(row.response_text)
    if source is None:
        return Verdict("wrong", "no program", "extract")
    if len(source) > LONGEST_SOURCE:
        return Verdict("wrong", "program too long", "extract")
    return repr((source, tests)), source, tests


def programs_of(source: str, tests: Tests) -> list[Program]:
    """Return the runs of one program: one for a function, one per test for a script."""
    if tests.entry is None:
        return [Program(source, None, [text], tests.fuel, tests.needs) for text in tests.inputs]
    return [Program(source, tests.entry, tests.inputs, tests.fuel, tests.needs)]


def judge(results: Sequence[ProgramResult], tests: Tests) -> Verdict:
    """Compare all values with all expected ones; a missing value fails, a failure of the machinery is unscored."""
    causes = [result.cause for result in results if result.cause != "completed"]
    engine = results[0].engine
    if "infra" in causes:
        return Verdict("unscored", next(r.detail for r in results if r.cause == "infra"), engine)
    if causes:
        return Verdict("wrong", causes[0], engine)
    values = [value for result in results for value in result.values]
    if len(values) != len(tests.expected):
        return Verdict("wrong", "protocol", engine)
    compare = same_output if tests.entry is None else same_value
    passed = sum(map(compare, values, tests.expected))
    if passed == len(values):
        return Verdict("correct", "all tests", engine)
    return Verdict("wrong", "some tests" if passed else "no test", engine)


def same_output(found: Any, expected: Any) -> bool:
    """Compare what a script printed line by line, ignoring white space at line ends and final empty lines."""
    if not isinstance(found, str) or not isinstance(expected, str):
        return False
    return [s.rstrip() for s in found.rstrip().split("\n")] == [s.rstrip() for s in expected.rstrip().split("\n")]


@contextmanager
def open_code_verifier(*, workers: int, cache: Path, sandbox_url: str = "") -> Generator[CodeVerifier]:
    """Yield a verifier over the sandbox; raises SandboxUnavailable where none works."""
    with open_sandbox(workers=workers, cache=cache, url=sandbox_url) as sandbox:
        yield CodeVerifier(sandbox)
