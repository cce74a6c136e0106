import numpy as np
import pytest

from nanbeige_core.data.tagging.dimensions import candidate_dimensions
from nanbeige_core.data.tagging.grading import GradeScale, weighted_kappa
from nanbeige_core.data.tagging.measures import MEASURES, bracket_balance, measure_all
from nanbeige_core.data.tagging.selection import Candidate, HeldOutFit, Task, rank_correlations, select_dimensions

NAMES = ["signal", "copy", "second", "noise", "constant", "shape", "other_shape"]
KINDS = ["content"] * 5 + ["format"] * 2


def candidates(overlap_limit: float = 0.8, content: int = 2, shuffle: bool = False) -> dict[str, Candidate]:
    """A target made of two signals; one is there twice, apart from its scale."""
    source = np.random.default_rng(3)
    signal, second, noise, shape, other = source.normal(size=(5, 400))
    grades = np.stack([signal, np.exp(signal), second, noise, np.ones(400), shape, other], axis=1)
    fold, first = np.arange(400) % 4, 2 * signal + second + 0.1 * shape
    order = source.permutation(400) if shuffle else np.arange(400)
    few = order[order % 3 == 0]
    tasks = [Task(grades[order], first[order], fold[order]), Task(grades[few], second[few], fold[few])]
    found = select_dimensions(
        NAMES,
        KINDS,
        grades[order],
        HeldOutFit(tasks),
        quotas={"content": content, "format": 1},
        overlap_limit=overlap_limit,
    )
    return {item.name: item for item in found}


def test_there_are_more_than_sixty_candidates_and_each_can_be_measured() -> None:
    dimensions = candidate_dimensions()
    assert len(dimensions) > 60
    assert set(MEASURES) == {dimension.name for dimension in dimensions}
    assert {dimension.kind for dimension in dimensions} == {"content", "format"}
    assert all(dimension.question.endswith("?") and dimension.low != dimension.high for dimension in dimensions)


@pytest.mark.parametrize("text", ["", " ", "x", "中文", "a\n" * 500, "\ufffd" * 50, ")(" * 9])
def test_every_measure_is_finite_on_odd_texts(text: str) -> None:
    assert np.isfinite(measure_all(text, 3.0, list(MEASURES))).all()


def test_brackets_count_as_closed_only_in_order() -> None:
    assert [bracket_balance(text) for text in ("", "f(a[0])", "f(a[0", ")(", "《书》(")] == [1.0, 1.0, 0.0, 0.0, 2 / 3]


def test_rank_correlation_sees_order_alone() -> None:
    values = np.array([[1.0, 1.0, 4.0, 7.0], [2.0, 40.0, 3.0, 7.0], [3.0, 900.0, 1.0, 7.0]])
    assert rank_correlations(values)[0] == pytest.approx([1, 1, -1, 0])


def test_what_predicts_is_chosen_and_what_repeats_it_is_dropped() -> None:
    found = candidates()
    assert [found[name].order for name in ("second", "signal", "noise")] == [1, 2, 0]
    assert found["copy"].reason == "overlaps signal"
    assert found["constant"].reason == "every document has one grade"
    assert found["signal"].gain > 0.3
    assert (found["shape"].order, found["other_shape"].order) == (3, 0)


def test_the_table_gives_gain_and_overlap_of_every_candidate() -> None:
    found = candidates()
    assert found["copy"].overlap == pytest.approx(1.0)
    assert found["copy"].overlaps_with == "signal"
    assert abs(found["noise"].gain) < 0.02
    assert found["second"].alone > found["signal"].alone > found["noise"].alone


def test_the_choice_does_not_depend_on_the_order_of_documents() -> None:
    first, second = candidates(), candidates(shuffle=True)
    assert {name: item.order for name, item in first.items()} == {name: item.order for name, item in second.items()}


def test_a_quota_that_overlap_leaves_unfilled_says_so() -> None:
    with pytest.raises(ValueError, match="leaves fewer than 4 content dimensions of 5. Raise overlap_limit"):
        candidates(content=4)


def test_grades_are_the_middle_ranks_of_clean_documents_of_a_language() -> None:
    scale = GradeScale(np.array([[1.0], [2.0], [3.0], [70.0]]), ["en", "en", "en", "zh"])
    assert [scale.grade(np.array([value]), "en")[0] for value in (0.0, 1.0, 2.0, 9.0)] == [0.0, 1.5, 4.5, 9.0]
    assert scale.grade(np.array([70.0]), "zh")[0] == 4.5
    assert scale.grade(np.array([2.5]), "fr")[0] == 4.5


def test_weighted_kappa_of_hand_cases() -> None:
    low_high = np.array([0.0, 9.0])
    assert weighted_kappa(low_high, low_high) == 1.0
    assert weighted_kappa(low_high, low_high[::-1]) == -1.0
    assert weighted_kappa(np.array([0.0, 0, 9, 9]), np.array([0.0, 9, 0, 9])) == 0.0
    assert weighted_kappa(np.array([5.0, 5]), np.array([5.0, 5])) == 0.0
