import re
from random import Random

import pytest

from nanbeige_core.problems import arithmetic, science, word_problems
from nanbeige_core.problems.problem import question_key
from nanbeige_core.problems.programs import fails_on_stubs


@pytest.mark.parametrize(("left", "right"), [(0, 0), (7, 8), (47, 38), (99, 1), (5, 90), (60, 40)])
def test_column_addition_writes_the_digits_of_the_sum(left: int, right: int) -> None:
    steps = arithmetic.add_by_digits(left, right, "en")
    totals = [int(total) for total in re.findall(r"=(\d+)", steps)]
    digits = "".join(str(total % 10) for total in totals[:-1])[::-1]
    assert int(str(totals[-1]) + digits) == left + right


@pytest.mark.parametrize(("left", "right"), [(0, 0), (8, 7), (47, 38), (90, 5), (61, 40), (50, 50)])
def test_column_subtraction_writes_the_digits_of_the_difference(left: int, right: int) -> None:
    steps = arithmetic.subtract_by_digits(left, right, "en")
    digits = re.findall(r"=(\d+)\.", steps)
    assert int("".join(reversed(digits))) == left - right


def test_reasoning_never_states_a_wrong_equation() -> None:
    families = [*arithmetic.open_families(0), *science.open_families(30)]
    random = Random(3)
    for family in families:
        for _ in range(40):
            problem = family.generate(random, "en")
            equations = re.findall(r"(-?\d+(?:[-+*/]\d+)+)\s*=\s*(-?\d+)", problem.reasoning if problem else "")
            assert all(eval(left) == int(right) for left, right in equations), problem


def test_operands_in_another_order_are_the_same_group() -> None:
    first = arithmetic.explain_sum({"expression": "3 + 15"}, "en")
    second = arithmetic.explain_sum({"expression": "15 + 3"}, "zh")
    assert first.group == second.group


def test_spacing_case_width_and_punctuation_do_not_hide_a_repetition() -> None:
    assert question_key("What is 3+4 ?") == question_key("what is ３＋４？")


@pytest.mark.parametrize("values", [[0, 0, 0], [None, None, None], [5, 5, 5], [1, 2, 3]])
def test_tests_that_a_stub_passes_are_refused(values: list[object]) -> None:
    inputs = [[1], [2], [3]]
    assert not fails_on_stubs(list(zip(inputs, values, strict=True)))


def test_a_solution_loses_its_calculator_marks() -> None:
    assert word_problems.clean_solution("3 * 4 = <<3*4=12>>12\n#### 1,200") == ("3 * 4 = 12", "1200")
