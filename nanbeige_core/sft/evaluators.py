"""The multi-model evaluator: several judges score a draft against its checklist and say what is wrong.

Each judge gives a score of 0 to 10 or none at all; the median of those given counts, critiques are united. A verifier
overrules everybody where it has a verdict, because a fluent wrong answer is wrong. No verdict is no score, not zero.
"""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.sft.chat import TURN_START, split_response
from nanbeige_core.sft.checklist import ASKED, Item
from nanbeige_core.sft.likelihood import Likelihood, Passage
from nanbeige_core.sft.requests import OVERALL, ask_judgement, read_judgement
from nanbeige_core.sft.rules import RULES
from nanbeige_core.sft.sampling import Drawn, Writer, ask

FULL = 10.0
VERDICT = SamplingConfig(temperature=0.0, max_new_tokens=4)
"""Room for a yes or a no."""


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
    scores: tuple[tuple[str, float | None], ...] = ()
    """Each judge's own score, by name."""


class Judge(Protocol):
    """Anything that has an opinion on drafts."""

    @property
    def name(self) -> str:
        """Return the name under which its scores are reported."""
        ...

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Return one opinion per case, in order."""
        ...


class VerifierJudge:
    """Right or wrong by execution or equivalence; no opinion where nothing can be verified."""

    name = "verifier"

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

    name = "rules"

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

    name = "fluency"

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


class ModelJudge:
    """A model that answers the checklist's questions, and one on the whole, with yes or no.

    The score is the weight answered yes, of what was answered; a draft nobody answered for has no opinion.
    """

    def __init__(self, name: str, writer: Writer) -> None:
        self.name = name
        self._writer = writer

    def judge(self, cases: Sequence[Case]) -> list[Opinion]:
        """Ask every question about every case, all in one batch."""
        items = [_asked(case) for case in cases]
        conversations = [
            ask_judgement(case.row, case.text, item.text)
            for case, asked in zip(cases, items, strict=True)
            for item in asked
        ]
        drawn = iter(self._writer.draw(conversations, VERDICT, n=1, seed=0))
        return [_opinion([(item, _first(next(drawn))) for item in asked]) for asked in items]


def _asked(case: Case) -> list[Item]:
    return [Item("overall", 2.0, False, OVERALL), *(item for item in case.checklist if item.check.startswith(ASKED))]


def _first(drawn: Sequence[Drawn]) -> bool | None:
    return read_judgement(drawn[0].text) if drawn else None


def _opinion(answers: Sequence[tuple[Item, bool | None]]) -> Opinion:
    given = [(item, answer) for item, answer in answers if answer is not None]
    if not given:
        return Opinion(None)
    failed = [item for item, answer in given if not answer]
    total = sum(item.weight for item, _ in given)
    score = FULL * (total - sum(item.weight for item in failed)) / total
    return Opinion(score, tuple(item.check for item in failed), " ".join(f"Not met: {item.text}" for item in failed))


def evaluate(cases: Sequence[Case], judges: Sequence[Judge]) -> list[Evaluation]:
    """Return the judges' common result for each case: median score, united critiques, verifier's override."""
    columns = [judge.judge(cases) for judge in judges]
    return [
        combine(case, opinions := [column[at] for column in columns])._replace(
            scores=tuple((judge.name, opinion.score) for judge, opinion in zip(judges, opinions, strict=True))
        )
        for at, case in enumerate(cases)
    ]


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
