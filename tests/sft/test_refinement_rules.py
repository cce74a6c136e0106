import pytest

from nanbeige_core.recipe.configs.sft import RefinementConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.checklist import build_checklist
from nanbeige_core.sft.deliberation import Deliberation, Draft, critique_turns
from nanbeige_core.sft.evaluators import Case, Evaluation, FormatJudge, Opinion, combine, same_answer
from nanbeige_core.sft.reconstruction import LEAK
from nanbeige_core.sft.refined_mixture import mix
from nanbeige_core.sft.refinement import reject_draft
from nanbeige_core.sft.refinement_report import improvements, score_gain, usable
from nanbeige_core.sft.rules import RULES, matches_language, repeats_itself
from nanbeige_core.sft.sampling import as_response


def prompt(domain: str = "math", verifier: str = "math", text: str = "What is 2+3?", language: str = "en") -> PromptRow:
    return PromptRow("p1", domain, "overall", language, text, "", "", verifier, "{}", "test")


PROMPTS = [
    prompt(),
    prompt("code", "code", "Write a Python function f(x)."),
    prompt("agent", "math", "Use the calculator tool to work out 12*30."),
    prompt("agent", "math", "Tool result: 5. Question: what is 2+3?"),
    prompt("general", "pairwise", "Explain gravity briefly."),
    prompt("general", "pairwise", "简单解释一下引力。", "zh"),
]
RIGHT = "<think>\n2 plus 3 is 5.\n</think>\n\n\\boxed{5}"


@pytest.mark.parametrize("row", PROMPTS)
def test_every_checklist_has_three_to_eight_items_and_a_must_pass(row):
    items = build_checklist(row)
    assert 3 <= len(items) <= 8
    assert any(item.must_pass for item in items)
    assert all(item.check in RULES or item.check == "verified" for item in items)


def test_checklists_differ_between_instructions():
    assert len({tuple(item.check for item in build_checklist(row)) for row in PROMPTS}) >= 4


def case(text: str = RIGHT, row: PromptRow = PROMPTS[0], *, truncated: bool = False) -> Case:
    return Case(row, build_checklist(row), text, truncated)


def test_format_judge_gives_full_marks_to_a_good_response_and_names_what_a_bad_one_lacks():
    good, bad = FormatJudge(100).judge([case(), case("5")])
    assert good == Opinion(10.0)
    assert {"well_formed", "boxed"} <= set(bad.failed)


def test_score_is_the_median_of_the_judges_that_have_one():
    opinions = [Opinion(10.0, verdict="correct"), Opinion(9.0), Opinion(2.0), Opinion(None)]
    assert combine(case(), opinions).score == 9.0


def test_wrong_verdict_overrides_every_other_judge():
    result = combine(case(), [Opinion(0.0, ("verified",), "wrong", "wrong"), Opinion(10.0), Opinion(10.0)])
    assert (result.score, result.vetoed) == (0.0, True)


def test_missing_verdict_is_unscored_and_vetoed_but_never_zero():
    result = combine(case(), [Opinion(None, verdict="unscored"), Opinion(8.0)])
    assert (result.score, result.vetoed, result.verified) == (8.0, True, "unscored")


def test_truncated_draft_is_vetoed():
    assert combine(case(truncated=True), [Opinion(10.0, verdict="correct")]).vetoed


def test_critiques_are_united():
    result = combine(case(), [Opinion(3.0, critique="a"), Opinion(9.0), Opinion(5.0, critique="b")])
    assert result.critiques == ("a", "b")


def draft(score: float, *, vetoed: bool, number: int = 1, text: str = RIGHT) -> Draft:
    return Draft(text, "teacher", number, Evaluation(score, (), vetoed, ("too long",), "correct"))


def test_best_draft_is_kept_not_the_last():
    work = Deliberation(PROMPTS[0], [], [draft(9, vetoed=False), draft(7, vetoed=False, number=2)])
    assert work.best == work.drafts[0]


def test_acceptable_draft_beats_a_vetoed_one_with_a_higher_score():
    work = Deliberation(PROMPTS[0], [], [draft(9, vetoed=True), draft(6, vetoed=False)])
    assert work.best == work.drafts[1]


def test_reviser_reads_draft_and_critique():
    turns = critique_turns(Deliberation(PROMPTS[0], [], [draft(3, vetoed=True)]))
    assert turns[1]["content"] == RIGHT
    assert "too long" in turns[2]["content"]


def test_a_plain_teacher_is_shown_what_a_verifier_needs_and_never_a_think_block():
    turns = critique_turns(Deliberation(PROMPTS[0], [], [draft(3, vetoed=True)]), plain=True)
    assert turns[0]["role"] == "system"
    assert "\\boxed{" in turns[0]["content"]
    assert turns[-2]["content"] == "\\boxed{5}"
    assert not any("<think>" in turn["content"] for turn in turns)


def test_the_last_remark_of_the_critic_reaches_the_reviser():
    work = Deliberation(PROMPTS[0], [], [draft(3, vetoed=True)], remarks={1: "first", 2: "carry the one"})
    assert "carry the one" in critique_turns(work)[2]["content"]


def test_text_of_a_plain_writer_becomes_an_answer_without_reasoning():
    assert as_response(" 5 ") == "<think>\n\n</think>\n\n5"
    assert as_response(RIGHT) == RIGHT
    assert as_response("") == ""


def test_written_questions_join_the_rules_up_to_eight_items():
    rules = len(build_checklist(PROMPTS[0]))
    items = build_checklist(PROMPTS[0], ["Is it a number?"] * 9)
    assert len(items) == 8
    assert [item.check for item in items[rules:]] == [f"asked_{number}" for number in range(1, 9 - rules)]


def test_draft_below_the_keeping_score_is_rejected_with_a_reason():
    config = RefinementConfig.model_validate({"keep_score": 6.0})
    assert reject_draft(draft(5, vetoed=False), config) == "low_score"
    assert reject_draft(draft(7, vetoed=False), config) == ""
    assert reject_draft(None, config) == "no_draft"


@pytest.mark.parametrize("text", ["As the given solution says, 5.", "The reference answer is 5.", "参考答案是5。"])
def test_chain_that_mentions_the_solution_is_recognised(text):
    assert LEAK.search(text)
    assert not LEAK.search("The solution is 5 because 2 plus 3 makes 5.")


def test_repetition_is_recognised():
    assert repeats_itself("one two three four five six " * 3)
    assert not repeats_itself("def f(x):\n    return x + 1")


def test_language_of_a_bare_number_matches_any_prompt():
    assert matches_language("zh", "\\boxed{5}")
    assert matches_language("en", "5")
    assert matches_language("zh", "```python\ndef f(x):\n    return x\n```")
    assert not matches_language("zh", "The answer is five.")


def test_same_answer_ignores_spacing_and_reasoning():
    assert same_answer(RIGHT, "<think>\nother\n</think>\n\n\\boxed{ 5 }")
    assert not same_answer(RIGHT, "<think>\nother\n</think>\n\n\\boxed{6}")


def test_mixture_has_the_shares_of_the_report():
    counts = {"math": 50, "science": 30, "general": 90, "agent": 70, "code": 60}
    kept = [{"domain": domain, "prompt_id": str(at)} for domain, count in counts.items() for at in range(count)]
    mixed = mix(kept, RefinementConfig.model_validate({}))
    shares = {
        name: sum(row["domain"] in group for row in mixed) / len(mixed)
        for name, group in {
            "math": ("math", "science"),
            "general": ("general",),
            "agent": ("agent",),
            "code": ("code",),
        }.items()
    }
    assert shares == pytest.approx({"math": 0.4, "general": 0.3, "agent": 0.2, "code": 0.1}, abs=0.01)


def test_scarce_group_is_repeated_at_most_as_often_as_allowed():
    kept = [{"domain": "math", "prompt_id": str(at)} for at in range(100)]
    kept += [{"domain": "code", "prompt_id": f"c{at}"} for at in range(5)]
    mixed = mix(kept, RefinementConfig.model_validate({"max_repeats": 2}))
    assert max(row["copy"] for row in mixed) == 1
    assert sum(row["domain"] == "code" for row in mixed) == 10


def trace_of(*drafts: tuple[str, float, bool, str]) -> dict[str, object]:
    named = [dict(zip(("origin", "score", "vetoed", "verified"), draft, strict=True)) for draft in drafts]
    return {"drafts": named}


TRACES = [
    trace_of(("student", 9.0, True, "none"), ("teacher", 6.0, False, "none")),
    trace_of(("student", 5.0, False, "correct"), ("teacher", 8.0, False, "correct")),
    trace_of(("student", 7.0, False, "correct"), ("teacher", 9.0, True, "unscored")),
    trace_of(("student", 8.0, True, "unscored"), ("teacher", 6.0, False, "correct")),
    trace_of(("teacher", 6.0, False, "correct")),
]


def test_a_draft_that_may_not_be_trained_on_counts_as_nothing_and_one_without_a_verdict_not_at_all():
    assert [usable(trace) for trace in TRACES] == [(0.0, 6.0), (5.0, 8.0), (7.0, 7.0), None, None]


def test_the_gain_of_refinement_is_never_negative():
    gain = score_gain(TRACES)
    assert gain is not None
    assert (gain.n, gain.before, gain.after) == (3, 4.0, 7.0)
    assert improvements(TRACES) == [6.0, 3.0]
