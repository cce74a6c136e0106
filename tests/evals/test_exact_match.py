from nanbeige_core.evals.exact_match import Attempt, Scores


def attempt(problem: str, outcome: str) -> Attempt:
    return Attempt(problem, "math", "", outcome, "", False, 1)


def test_a_problem_of_which_nothing_was_scored_has_no_record() -> None:
    attempts = [attempt("a", "correct"), attempt("a", "unscored"), attempt("b", "unscored")]
    assert Scores(["a", "b"], [1.0, 0.0], attempts).by_problem() == {"a": 1.0}
