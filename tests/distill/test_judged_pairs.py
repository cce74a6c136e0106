"""Pairs of open answers by a judge, and of verified ones; a model behind a real endpoint as the judge."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nanbeige_core.distill.judged_pairs import Judged, ServedJudge, judge_pairs
from nanbeige_core.distill.pairs import Policies, Scored, _work, select_pairs
from nanbeige_core.distill.pairs_report import pairs_report
from nanbeige_core.generate.openai_engine import OpenAIEngine
from nanbeige_core.recipe.configs.distill import PreferencePairsConfig
from nanbeige_core.rl.judge import Verdicts
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Scorer
from nanbeige_core.sft.chat import render_response
from nanbeige_core.sft.sampling import Drawn, ServedWriter
from tests.serving import JsonHandler, serving

ROW = PromptRow("p", "general", "overall", "en", "What is the sun?", "", "", "pairwise", "{}", "test")
CONFIG = PreferencePairsConfig.model_validate({"domains": ("general",), "judge": "any", "pairs_per_prompt": 2})


def said(answer: str, *, truncated: bool = False) -> Drawn:
    return Drawn(render_response("let me see", answer), truncated)


class Fixed:
    """A judge by a rule: (answer shown first, answer shown second) -> probability that the first is better."""

    def __init__(self, first_wins: Callable[[str, str], float]) -> None:
        self._first_wins = first_wins

    def verdicts(self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]) -> Verdicts:
        both = list(zip(answers_a, answers_b, strict=True))
        return Verdicts([self._first_wins(a, b) for a, b in both], [1 - self._first_wins(b, a) for a, b in both])


def judged(judge: Any, teacher: list[Drawn], student: list[Drawn]) -> Judged:
    return judge_pairs(judge, [ROW], [teacher], [student], CONFIG)[0]


LONGER = Fixed(lambda first, second: 0.9 if len(first) > len(second) else 0.1)
FIRST = Fixed(lambda first, second: 0.9)
SLIGHT = Fixed(lambda first, second: 0.7 if len(first) > len(second) else 0.3)
SILENT = Fixed(lambda first, second: math.nan)


def test_a_pair_is_kept_where_the_teacher_wins_by_far_in_both_orders() -> None:
    found = judged(LONGER, [said("a star of hot gas"), said("?")], [said("a ball"), said("a lamp")])
    assert [(chosen.text, rejected.text) for chosen, rejected in found.pairs] == [
        (said("a star of hot gas").text, said("a ball").text)
    ]
    assert found.reason == "kept"
    assert len(found.gaps) == 2


def test_a_verdict_that_follows_the_position_keeps_nothing() -> None:
    found = judged(FIRST, [said("a star of hot gas")], [said("a ball")])
    assert (found.pairs, found.reason) == ([], "not_far_better")
    assert found.gaps[0] == pytest.approx((0.9, 0.1))


@pytest.mark.parametrize(
    ("judge", "teacher", "student", "reason"),
    [
        (SLIGHT, [said("a star")], [said("lamp")], "not_far_better"),
        (LONGER, [said("lamp")], [said("a star")], "swapped"),
        (SILENT, [said("a star")], [said("lamp")], "unscored"),
        (LONGER, [said("a star")], [said("lamp", truncated=True)], "student_unfinished"),
        (LONGER, [said("a star", truncated=True)], [said("lamp")], "teacher_unusable"),
        (LONGER, [], [], "no_prompt_room"),
    ],
)
def test_what_gives_no_pair_says_why(judge: Fixed, teacher: list[Drawn], student: list[Drawn], reason: str) -> None:
    found = judged(judge, teacher, student)
    assert (found.pairs, found.reason) == ([], reason)


def scored(*outcomes: str) -> list[Scored]:
    return [Scored(said(str(number)), outcome) for number, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("teacher", "student", "reason"),
    [
        (("wrong", "correct"), ("correct", "wrong"), "kept"),
        (("wrong",), ("correct",), "swapped"),
        (("wrong",), ("wrong",), "teacher_never_right"),
        (("correct",), ("correct",), "both_right"),
        (("correct",), ("unscored",), "both_right"),
        (("unscored",), ("unscored",), "unscored"),
        ((), ("wrong",), "no_prompt_room"),
    ],
)
def test_verified_pairs_need_a_right_teacher_and_a_wrong_student(
    teacher: tuple[str, ...], student: tuple[str, ...], reason: str
) -> None:
    pairs, found = select_pairs(scored(*teacher), scored(*student), most=1)
    assert found == reason
    assert len(pairs) == (reason == "kept")


class Says:
    """A policy that always gives one answer."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def draw(self, conversations: Sequence[Any], sampling: Any, *, n: int, seed: int) -> list[list[Drawn]]:
        return [[said(self._answer)] * n for _ in conversations]


def test_verified_and_open_prompts_of_one_chunk_stay_in_order(tmp_path: Path) -> None:
    sums = PromptRow("m", "math", "overall", "en", "3+4?", "", "7", "math", '{"gold": "7"}', "test")
    rows = [ROW, sums, ROW._replace(id="q")]
    with Scorer(cache=tmp_path, workers=1) as scorer:
        policies: Any = Policies(Says("it is \\boxed{7}"), Says("\\boxed{8}"), scorer, LONGER)  # type: ignore[arg-type]
        results = _work(policies, CONFIG, rows, seed=1)
    assert [result["prompt_id"] for result in results] == ["p", "m", "q"]
    assert [len(result["pairs"]) for result in results] == [2, 2, 2]
    assert results[0]["scores"] == pytest.approx([0.9, 0.9])
    assert (results[1]["teacher"], results[1]["student"]) == (["correct"] * 4, ["wrong"] * 4)


def test_the_report_counts_comparisons_and_needs_no_verified_prompt() -> None:
    row = {"prompt_id": "p", "domain": "general", "reason": "kept", "teacher": [], "student": [], "pairs": [["a", "b"]]}
    outcome = pairs_report([{**row, "scores": [0.95], "gaps": [[0.9, 1.0], [0.9, 0.2]]}], validation=1)
    (table,) = (section.table for section in outcome.sections if section.title == "Answers that a judge compared")
    assert (table[0]["comparisons"], table[0]["both orders agree"], table[0]["pairs"]) == (2, 0.5, 1)
    assert outcome.gain is None


class Judge(JsonHandler):
    """Finds the answer that names a star better, and says so in its own words."""

    def do_POST(self) -> None:
        request = self.read()
        shown = request["messages"][-1]["content"].split("\n\n")
        stars = ["star" in part for part in shown if part.startswith(("A:", "B:"))]
        reply = "A tie, I cannot tell." if stars[0] == stars[1] else ("**A**, clearly." if stars[0] else "Answer: B")
        self.answer_chat(reply)


@pytest.fixture
def served() -> Iterator[ServedJudge]:
    with serving(Judge) as address:
        engine = OpenAIEngine(address, "judge", api_key="", timeout_seconds=5, retries=0)
        yield ServedJudge(ServedWriter(engine))
        engine.close()


def test_a_served_model_compares_in_both_orders(served: ServedJudge) -> None:
    found = judged(served, [said("a star"), said("a star too")], [said("a lamp"), said("a star")])
    assert found.kept == [(1.0, 1.0)]
    assert [gap.judged for gap in found.gaps] == [True, False]
