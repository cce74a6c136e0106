import pytest

from nanbeige_core.verify.math_verifier import MathVerifier, judge_reply
from nanbeige_core.verify.verdict import Judgement, VerificationRequest
from nanbeige_core.verify.workers import WorkerLost

PAIRS: list[tuple[str, str, Judgement]] = [
    ("75", "75", "correct"),
    ("75.0", "75", "correct"),
    ("75.", "75", "correct"),
    ("1,234", "1234", "correct"),
    ("\\frac{1}{2}", "0.5", "correct"),
    ("1/2", "\\frac{2}{4}", "correct"),
    ("-3", "−3", "correct"),
    ("７５", "75", "correct"),
    ("75\\text{ km}", "75", "correct"),
    ("75 km", "75", "correct"),
    ("75千米", "75", "correct"),
    ("50\\%", "50", "correct"),
    ("x = 5", "5", "correct"),
    ("x^2-1", "(x-1)(x+1)", "correct"),
    ("\\sqrt{8}", "2\\sqrt{2}", "correct"),
    ("76", "75", "wrong"),
    ("5 cm", "5 m", "wrong"),
    ("7 or 8", "7", "wrong"),
    ("7或8", "7", "wrong"),
    ("7 \\text{ or } 8", "7", "wrong"),
    ("7 \\pm 100", "7", "wrong"),
    ("大约7", "7", "wrong"),
    ("5=6=7", "7", "wrong"),
    ("x=8=7", "7", "wrong"),
    ("3+4=7", "7", "wrong"),
    ("6, 7", "7", "wrong"),
    ("[0, 10]", "7", "wrong"),
    ("", "7", "wrong"),
    ("2^{-99}", "2^{-98}", "wrong"),
    ("\\frac{1}{2004!}", "\\frac{1}{2006!}", "wrong"),
    ("{" * 60 + "7" + "}" * 60, "7", "wrong"),
    ("7" * 3000, "7", "wrong"),
]


def respond(answer: str) -> str:
    return f"<think>\nsome steps\n</think>\n\n\\boxed{{{answer}}}"


@pytest.mark.parametrize(("answer", "gold", "outcome"), PAIRS)
def test_labelled_pair(math: MathVerifier, answer: str, gold: str, outcome: Judgement) -> None:
    assert math.verify([VerificationRequest("p", respond(answer), {"gold": gold})])[0].outcome == outcome


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("The answer is 7.", "no answer"),
        ("<think>\n\\boxed{7}", "no answer"),
        ("<think>\n\\boxed{7}\n</think>\n\n7", "no answer"),
        ("</think>\\boxed{7", "no answer"),
        ("</think><|im_end|>\\boxed{7}", "no answer"),
        ("</think>\\boxed{7} and \\boxed{8}", "different"),
    ],
)
def test_only_the_last_box_after_the_thinking_counts(math: MathVerifier, response: str, reason: str) -> None:
    verdict = math.verify([VerificationRequest("p", response, {"gold": "7"})])[0]
    assert (verdict.outcome, verdict.reason) == ("wrong", reason)


def test_a_comparison_beyond_its_limit_is_never_correct(math: MathVerifier) -> None:
    verdict = math.verify([VerificationRequest("p", respond("9^{9^{9^{9}}}"), {"gold": "x+1"})])[0]
    assert verdict.outcome != "correct"


def test_the_processor_limit_is_unscored() -> None:
    assert judge_reply(WorkerLost("the worker died (SIGXCPU)", spent=True)).outcome == "unscored"


def test_a_truncated_response_is_wrong(math: MathVerifier) -> None:
    row = VerificationRequest("p", respond("7"), {"gold": "7"}, truncated=True)
    assert math.verify([row])[0].reason == "truncated"


def test_a_tool_call_is_judged_by_making_it(math: MathVerifier) -> None:
    call = '</think>\n\n<tool_call>\n{"name": "calculator", "arguments": {"expression": "%s"}}\n</tool_call>'
    rows = [
        VerificationRequest("p", call % text, {"gold": "3648", "tool": "calculator"})
        for text in ("48*76", "76*48", "48*77", "__import__('os')", "9**9**9")
    ]
    assert [v.outcome for v in math.verify(rows)] == ["correct", "correct", "wrong", "wrong", "wrong"]


def test_a_spec_without_a_reference_is_refused(math: MathVerifier) -> None:
    with pytest.raises(ValueError, match="expected the reference answer"):
        math.verify([VerificationRequest("p", respond("7"), {})])
