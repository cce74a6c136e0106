from nanbeige_core.evals.evaluate_report import Result, to_outcome
from nanbeige_core.evals.exact_match import Attempt, Scores


def scored(checkpoint: str, *outcomes: str) -> Result:
    attempts = [Attempt(f"p{n}", "math", "text", outcome, "", False, 3) for n, outcome in enumerate(outcomes)]
    values = [float(outcome == "correct") for outcome in outcomes]
    return Result(checkpoint, "math", Scores([attempt.prompt_id for attempt in attempts], values, attempts))


RESULTS = [scored("base", "wrong", "wrong", "correct"), scored("final", "correct", "wrong", "correct")]


def test_the_gain_is_between_the_first_and_the_last_checkpoint() -> None:
    gain = to_outcome(["math"], RESULTS, ["base", "final"]).gain
    assert gain is not None
    assert (round(gain.before, 3), round(gain.after, 3), gain.n) == (0.333, 0.667, 3)


def test_unscored_responses_leave_the_estimate_and_are_counted() -> None:
    result = scored("base", "correct", "unscored")
    assert (result.estimate.mean, result.row()["unscored"]) == (1.0, 1)
