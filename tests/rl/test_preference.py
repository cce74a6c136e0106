import math
from collections.abc import Sequence
from random import Random

import pytest

from nanbeige_core.rl.preference import Group, group_rewards, plan_comparisons, reduce_rewards

GROUP = Group("question", ["1", "2", "3", "4"], "2.5")


class LargerNumber:
    """Prefer the larger number with certainty; cannot read what is not a number."""

    def win_probability(
        self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]
    ) -> list[float]:
        del prompts
        return [self._compare(a, b) for a, b in zip(answers_a, answers_b, strict=True)]

    def _compare(self, a: str, b: str) -> float:
        if "?" in (a, b):
            return math.nan
        return 0.5 if a == b else float(float(a) > float(b))


def rewards(group: Group, scheme: str) -> list[float]:
    return group_rewards(LargerNumber(), [group], scheme, Random(0))[0]  # type: ignore[arg-type]


def test_all_pairs_is_the_win_rate() -> None:
    assert rewards(GROUP, "all_pairs") == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_reference_compares_with_the_frozen_answer() -> None:
    assert rewards(GROUP, "reference") == [0, 0, 1, 1]


def test_circular_averages_two_neighbours() -> None:
    assert rewards(GROUP, "circular") == [0, 0.5, 0.5, 1]


def test_the_pivot_gets_one_half_and_the_others_their_win_probability() -> None:
    comparisons = plan_comparisons([GROUP], "pivot", Random(0))
    pivot = comparisons[0].right
    found = rewards(GROUP, "pivot")
    assert found[pivot] == 0.5
    assert [found[i] for i in range(4) if i != pivot] == [float(i > pivot) for i in range(4) if i != pivot]


@pytest.mark.parametrize(("scheme", "count"), [("pivot", 3), ("reference", 4), ("circular", 4), ("all_pairs", 6)])
def test_number_of_comparisons(scheme: str, count: int) -> None:
    assert len(plan_comparisons([GROUP], scheme, Random(0))) == count  # type: ignore[arg-type]


def test_a_comparison_that_could_not_be_judged_leaves_the_mean() -> None:
    found = rewards(Group("question", ["1", "2", "?"], ""), "all_pairs")
    assert found[:2] == [0, 1]
    assert math.isnan(found[2])


def test_groups_do_not_influence_one_another() -> None:
    other = Group("other", ["9", "8"], "")
    comparisons = plan_comparisons([GROUP, other], "all_pairs", Random(0))
    wins = [1.0 if item.group else float(GROUP.answers[item.left] > GROUP.answers[item.right]) for item in comparisons]
    assert reduce_rewards([GROUP, other], comparisons, wins, "all_pairs")[0] == rewards(GROUP, "all_pairs")
