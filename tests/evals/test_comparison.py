import numpy as np
import pytest
from numpy.typing import NDArray

from nanbeige_core.evals.comparison import (
    Comparison,
    adjust_for_several,
    compare_arms,
    detectable_difference,
)
from nanbeige_core.evals.statistics import paired_difference

Pairs = list[tuple[dict[str, float], dict[str, float]]]


def pairs_of(differences_SP: NDArray[np.float64]) -> Pairs:
    return [
        ({str(p): 0.0 for p in range(len(row))}, {str(p): float(d) for p, d in enumerate(row)})
        for row in differences_SP
    ]


def draw(
    random: np.random.Generator, seeds: int, problems: int, *, truth: float, seed_effect: float
) -> NDArray[np.float64]:
    return (
        truth
        + random.normal(0, seed_effect, (seeds, 1))
        + random.normal(0, 0.1, problems)
        + random.normal(0, 0.4, (seeds, problems))
    )


def test_one_pair_of_runs_has_the_paired_interval_over_problems() -> None:
    values = np.array([[0.0, 1.0, 0.5, -0.5]])
    found = compare_arms(pairs_of(values))
    by_hand = paired_difference([0.0] * 4, values[0].tolist())
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))
    assert found.layout == "one seed"


def test_seeds_that_disagree_widen_the_interval_though_problems_agree() -> None:
    calm = compare_arms(pairs_of(np.tile([[0.1, 0.1, 0.1, 0.11]], (4, 1))))
    torn = compare_arms(pairs_of(np.array([[0.4] * 4, [-0.2] * 4, [0.3] * 4, [-0.1] * 4])))
    assert calm.difference == pytest.approx(torn.difference, abs=0.01)
    assert calm.low > 0
    assert torn.low < 0 < torn.high


def test_with_equal_problems_the_interval_is_student_over_seeds() -> None:
    found = compare_arms(pairs_of(np.array([[0.4] * 5, [0.2] * 5, [0.3] * 5])))
    by_hand = paired_difference([0.0] * 3, [0.4, 0.2, 0.3])
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))


def test_the_interval_holds_the_truth_93_to_97_times_of_100() -> None:
    random = np.random.default_rng(2)
    drawn = [draw(random, 4, 40, truth=0.1, seed_effect=0.1) for _ in range(1000)]
    found = [compare_arms(pairs_of(values)) for values in drawn]
    assert 0.93 <= np.mean([item.low <= 0.1 <= item.high for item in found]) <= 0.97
    plain = [paired_difference([0.0] * 40, values.mean(axis=0).tolist()) for values in drawn]
    assert np.mean([item.low <= 0.1 <= item.high for item in plain]) < 0.85


def test_two_sets_of_seeds_of_one_recipe_are_rarely_called_different() -> None:
    random = np.random.default_rng(3)
    found = [compare_arms(pairs_of(draw(random, 4, 40, truth=0.0, seed_effect=0.1))) for _ in range(500)]
    assert np.mean([item.p_value < 0.05 for item in found]) < 0.08


def test_the_detectable_difference_is_found_4_times_of_5() -> None:
    random = np.random.default_rng(4)
    size = np.mean(
        [
            detectable_difference(compare_arms(pairs_of(draw(random, 6, 40, truth=0.0, seed_effect=0.1))))
            for _ in range(40)
        ]
    )
    found = [compare_arms(pairs_of(draw(random, 6, 40, truth=float(size), seed_effect=0.1))) for _ in range(400)]
    assert 0.72 <= np.mean([item.p_value < 0.05 for item in found]) <= 0.88


def test_problems_that_differ_by_seed_rest_on_the_seeds_alone() -> None:
    pairs: Pairs = [
        ({f"{seed}-{p}": 0.0 for p in range(50)}, {f"{seed}-{p}": mean for p in range(50)})
        for seed, mean in enumerate((0.1, 0.3, 0.2))
    ]
    found = compare_arms(pairs)
    by_hand = paired_difference([0.0] * 3, [0.1, 0.3, 0.2])
    assert found.layout == "nested"
    assert (found.low, found.high) == pytest.approx((by_hand.low, by_hand.high))


def test_a_problem_without_a_score_in_one_run_leaves_every_run() -> None:
    before = {"a": 0.0, "b": 0.0, "c": 0.0}
    pairs: Pairs = [(before, {"a": 1.0, "b": 1.0, "c": 9.0}), (before, {"a": 1.0, "b": 1.0})]
    found = compare_arms(pairs)
    assert (found.difference, found.problems) == (1.0, 2)


def test_swapping_the_arms_negates_the_difference() -> None:
    pairs = pairs_of(draw(np.random.default_rng(5), 4, 20, truth=0.1, seed_effect=0.1))
    there, back = compare_arms(pairs), compare_arms([(after, before) for before, after in pairs])
    assert (there.low, there.p_value) == pytest.approx((-back.high, back.p_value))


def test_equal_arms_have_no_difference_and_no_claim() -> None:
    found = compare_arms(pairs_of(np.zeros((3, 5))))
    assert (found.low, found.high, found.p_value) == (0.0, 0.0, 1.0)


def test_runs_without_a_common_problem_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the same problems twice"):
        compare_arms([({"a": 1.0}, {"b": 1.0})])


def test_holm_by_hand() -> None:
    assert adjust_for_several([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_nothing_is_detectable_without_an_error() -> None:
    lonely: Comparison = compare_arms([({"a": 0.0}, {"a": 1.0})])
    assert detectable_difference(lonely) == float("inf")
