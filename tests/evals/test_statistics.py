import math

import numpy as np
import pytest

from nanbeige_core.evals.statistics import mean_with_standard_error, paired_difference


def test_the_interval_of_three_differences_by_hand() -> None:
    found = paired_difference([0.0, 0.0, 0.0], [0.0, 1.0, 0.5])
    assert found.mean == 0.5
    assert found.high - found.mean == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)


def test_the_interval_covers_the_truth_about_95_times_of_100() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        before = random.random(20)
        interval = paired_difference(before.tolist(), (before + random.normal(0.1, 1.0, 20)).tolist())
        covered += interval.low <= 0.1 <= interval.high
    assert 925 <= covered <= 975


def test_swapping_before_and_after_negates_the_difference() -> None:
    there, back = paired_difference([0.1, 0.4], [0.3, 0.2]), paired_difference([0.3, 0.2], [0.1, 0.4])
    assert there.low == pytest.approx(-back.high)


def test_lists_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="1 scores before and 2 after"):
        paired_difference([0.1], [0.2, 0.3])


def test_equal_answers_of_one_problem_count_as_one_observation() -> None:
    once = mean_with_standard_error([1.0, 0.0, 0.0], ["a", "b", "c"])
    thrice = mean_with_standard_error([1.0] * 3 + [0.0] * 6, ["a"] * 3 + ["b"] * 3 + ["c"] * 3)
    assert thrice.standard_error == pytest.approx(once.standard_error)


def test_own_clusters_give_the_plain_standard_error() -> None:
    values = [0.2, 0.9, 0.4, 0.4]
    found = mean_with_standard_error(values, range(4))
    assert found.standard_error == pytest.approx(np.std(values, ddof=1) / 2)
