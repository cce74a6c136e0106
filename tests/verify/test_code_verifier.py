from typing import Any

import pytest

from nanbeige_core.verify.code_verifier import CodeVerifier, extract_program, judge, read_tests
from nanbeige_core.verify.sandbox import Program, ProgramResult, Sandbox
from nanbeige_core.verify.typed_data import ProtocolViolation, decode, same_value
from nanbeige_core.verify.verdict import VerificationRequest

SPEC = {"entry": "f", "public": [[[1], 2]], "private": [[[2], 3]]}


def test_a_failure_of_the_machinery_is_unscored() -> None:
    tests = read_tests(VerificationRequest("p", "", SPEC))
    assert judge([ProgramResult("infra", "no reply", [], 0)], tests).outcome == "unscored"


def test_a_missing_value_is_wrong() -> None:
    tests = read_tests(VerificationRequest("p", "", SPEC))
    assert judge([ProgramResult("completed", "", [2], 0)], tests).outcome == "wrong"


def test_a_spec_without_tests_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one test"):
        read_tests(VerificationRequest("p", "", {"entry": "f", "public": [], "private": []}))


@pytest.mark.parametrize(
    "spec",
    [
        {"entry": "f", "private": [[[2]]]},
        {"entry": "f", "private": [[2, 7]]},
        {"entry": "f", "private": ["ab"]},
        {"style": "stdin", "private": [["2", 7]]},
        {"entry": "f", "private": [[[2], 7]], "fuel": 0},
    ],
)
def test_a_spec_that_no_program_could_pass_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="prompt p: spec has .*no program could pass"):
        read_tests(VerificationRequest("p", "", spec))


def test_a_program_inside_the_thinking_does_not_count() -> None:
    assert extract_program("<think>\n```python\nx = 1\n```\n</think>\n\nno code") is None


def test_a_truncated_program_is_wrong(sandbox: Sandbox) -> None:
    row = VerificationRequest("p", "```python\ndef f(x): return x + 1\n```", SPEC, truncated=True)
    assert CodeVerifier(sandbox).verify([row])[0].reason == "truncated"


def test_scripts_read_input_and_are_judged_by_what_they_print(sandbox: Sandbox) -> None:
    spec = {"style": "stdin", "public": [["1 2\n", "3\n"]], "private": [["4 5\n", "9"]]}
    text = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    wrong = "```python\nprint(3)\n```"
    rows = [VerificationRequest("p", response, spec) for response in (text, wrong)]
    assert [v.outcome for v in CodeVerifier(sandbox).verify(rows)] == ["correct", "wrong"]


def test_a_correct_first_line_does_not_pass_for_two(sandbox: Sandbox) -> None:
    spec = {"style": "stdin", "public": [["", "1\n2\n"]]}
    row = VerificationRequest("p", "```python\nprint(1)\n```", spec)
    assert CodeVerifier(sandbox).verify([row])[0].outcome == "wrong"


def test_a_large_correct_output_is_graded_right(sandbox: Sandbox) -> None:
    result = sandbox.run([Program("print('a' * 3_000_000)", None, [""])])[0]
    assert result.values == ["a" * 3_000_000 + "\n"]


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        (1, 1, True),
        (True, 1, False),
        (1, True, False),
        (1.0, 1, True),
        ((1, 2), [1, 2], True),
        ([1], [1, 2], False),
        ("1", 1, False),
        (None, 0, False),
        ({"a": 1}, {"a": 1}, True),
        (0.1 + 0.2, 0.3, True),
        (float("nan"), float("nan"), False),
    ],
)
def test_values_are_compared_by_exact_kind(found: object, expected: object, same: bool) -> None:
    assert same_value(found, expected) is same


@pytest.mark.parametrize("item", [None, 3, [], ["object", 1], ["int", 3], ["bool", 1], ["list", "ab"], ["none", 1]])
def test_a_reply_that_is_not_typed_data_is_refused(item: object) -> None:
    with pytest.raises(ProtocolViolation):
        decode(item)
