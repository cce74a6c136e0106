"""The multi-model evaluator: several judges score a draft against its checklist and say what is wrong.

Each judge gives a score of 0 to 10 or none at all; the median of those given counts, critiques are united. A verifier
overrules everybody where it has a verdict, because a fluent wrong answer is wrong. No verdict is no score, not zero.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.sft.chat import TURN_START, split_response
from nanbeige_core.sft.checklist import Item
from nanbeige_core.sft.likelihood import Likelihood, Passage
from nanbeige_core.sft.rules import RULES
from nanbeige_core.sft.sampling import ask

FULL = 10.0


class Case(NamedTuple):
    """A draft with the instruction and checklist it is judged by."""

    row: PromptRow
    checklist: list[Item]
    text: str
    truncated: bool


class Opinion(NamedTuple):
    """What one judge says of one draft; `failed` are checks of the checklist.

    `verdict` is a verifier's: correct, wrong or unscored; none for a judge that only has taste.
    """

    score: float | None
    failed: tuple[str, ...] = ()
    critique: str = ""
    verdict: str = "none"


class Evaluation(NamedTuple):
    """The judges' common result."""

    score: float
    failed: tuple[str, ...]
    vetoed: bool
    critiques: tuple[str, ...]
    verified: str


class Judge(Protocol):
    """Anything that has an opinion on drafts."""

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Return one opinion per case, in order."""
        ...


class VerifierJudge:
    """Right or wrong by execution or equivalence; no opinion where nothing can be verified."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Verify the cases whose checklist asks for it."""
        opinions = [Opinion(None)] * len(cases)
        places = [at for at, case in enumerate(cases) if any(item.check == "verified" for item in case.checklist)]
        answers = [Answered(cases[at].text, cases[at].truncated) for at in places]
        for at, verdict in zip(places, self._scorer.score([cases[at].row for at in places], answers), strict=True):
            if verdict.outcome == "correct":
                opinions[at] = Opinion(FULL, verdict="correct")
            elif verdict.outcome == "wrong":
                opinions[at] = Opinion(0.0, ("verified",), "The final answer is wrong.", "wrong")
            else:
                opinions[at] = Opinion(None, verdict="unscored")
        return opinions


class FormatJudge:
    """The rules of the checklist, weighted."""

    def __init__(self, longest_words: int) -> None:
        self._longest = longest_words

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Apply every rule of each case's checklist."""
        return [self._opinion(case) for case in cases]

    def _opinion(self, case: Case) -> Opinion:
        ruled = [item for item in case.checklist if item.check in RULES]
        failed = [item for item in ruled if not RULES[item.check](case.row, case.text, self._longest)]
        passed = sum(item.weight for item in ruled) - sum(item.weight for item in failed)
        critique = " ".join(f"Not met: {item.text}" for item in failed)
        if case.truncated:
            critique = f"The response never ends. {critique}".strip()
        score = FULL * passed / sum(item.weight for item in ruled)
        return Opinion(score, tuple(item.check for item in failed), critique)


class FluencyJudge:
    """The teacher's geometric mean token probability of the draft, times ten."""

    def __init__(self, likelihood: Likelihood) -> None:
        self._likelihood = likelihood

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Score the cases that fit the teacher's window; an empty draft has no opinion."""
        readable = [at for at, case in enumerate(cases) if case.text and TURN_START not in case.text]
        passages = [Passage(ask(cases[at].row), "", cases[at].text) for at in readable]
        opinions = [Opinion(None)] * len(cases)
        for at, mean in zip(readable, self._likelihood.score(passages), strict=True):
            if mean is not None:
                opinions[at] = _fluency(FULL * math.exp(mean))
        return opinions


def evaluate(cases: Sequence[Case], judges: Sequence[Judge]) -> list[Evaluation]:
    """Return the judges' common result for each case: median score, united critiques, verifier's override."""
    columns = [judge.judge(cases) for judge in judges]
    return [combine(case, [column[at] for column in columns]) for at, case in enumerate(cases)]


def combine(case: Case, opinions: Sequence[Opinion]) -> Evaluation:
    """Combine the opinions on one draft.

    A failed verification caps the score at 0; a truncated draft and a failed must-pass item veto acceptance.
    """
    scores = [opinion.score for opinion in opinions if opinion.score is not None]
    failed = tuple(dict.fromkeys(check for opinion in opinions for check in opinion.failed))
    must = {item.check for item in case.checklist if item.must_pass}
    verified = next((opinion.verdict for opinion in opinions if opinion.verdict != "none"), "none")
    score = 0.0 if verified == "wrong" or not scores else float(statistics.median(scores))
    critiques = tuple(opinion.critique for opinion in opinions if opinion.critique)
    # a must-pass verification without a verdict is not passed: the draft is unscored, not accepted
    vetoed = case.truncated or bool(must & set(failed)) or verified == "unscored"
    return Evaluation(score, failed, vetoed, critiques, verified)


def _fluency(score: float) -> Opinion:
    return Opinion(score, (), "" if score >= FULL / 2 else "Reads unlike anything the teacher would write.")


def same_answer(left: str, right: str) -> bool:
    """Tell whether two responses end in the same answer text, spacing and case aside."""
    first, second = ("".join(split_response(text).answer.split()).lower() for text in (left, right))
    return bool(first) and first == second
