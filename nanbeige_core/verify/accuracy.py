"""Measure a verifier on labelled answers: how often it accepts what is wrong, rejects what is right, or cannot tell.

The labels are a tab-separated file with the columns category, language, label (correct or wrong), answer and gold. An
answer stands inside a box after the thinking; one that begins with `RESPONSE:` is the whole response instead.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nanbeige_core.verify.verdict import Judgement, Verdict, VerificationRequest, Verifier

WHOLE_RESPONSE = "RESPONSE:"


class LabelledPair(NamedTuple):
    """One answer, its reference, and what a careful person says about it."""

    category: str
    language: str
    label: Judgement
    answer: str
    gold: str

    @property
    def response(self) -> str:
        """Return the assistant turn that gives this answer."""
        if self.answer.startswith(WHOLE_RESPONSE):
            return self.answer.removeprefix(WHOLE_RESPONSE)
        return f"<think>\n...\n</think>\n\n\\boxed{{{self.answer}}}"


class Accuracy(NamedTuple):
    """Counts of one category."""

    category: str
    pairs: int
    right: int
    false_accepts: int
    false_rejects: int
    unscored: int


class Mistake(NamedTuple):
    """A pair whose verdict differs from its label; an unscored verdict is no judgement, but is listed."""

    pair: LabelledPair
    verdict: Verdict


def read_labelled_pairs(path: Path) -> list[LabelledPair]:
    """Read the labels; raises ValueError for a label that is neither correct nor wrong."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    pairs: list[LabelledPair] = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(LabelledPair._fields) or row[2] not in ("correct", "wrong"):
            raise ValueError(
                f"{path}:{number} has {len(row)} columns and label {row[2] if len(row) > 2 else ''!r}, expected "
                f"{', '.join(LabelledPair._fields)} with a label correct or wrong. Correct the line."
            )
        pairs.append(LabelledPair(row[0], row[1], "correct" if row[2] == "correct" else "wrong", row[3], row[4]))
    return pairs


def judge_pairs(verifier: Verifier, pairs: Sequence[LabelledPair]) -> list[Verdict]:
    """Return the verifier's verdict on every pair."""
    return verifier.verify(
        [VerificationRequest(f"pair-{n}", pair.response, {"gold": pair.gold}) for n, pair in enumerate(pairs)]
    )


def tabulate(pairs: Sequence[LabelledPair], verdicts: Sequence[Verdict]) -> list[Accuracy]:
    """Return one row per category and language, and a last one over all pairs."""
    both = list(zip(pairs, verdicts, strict=True))
    keys = list(dict.fromkeys(f"{pair.category} {pair.language}" for pair in pairs))
    rows = [_count(key, [item for item in both if f"{item[0].category} {item[0].language}" == key]) for key in keys]
    return [*rows, _count("all", both)]


def _count(category: str, judged: Sequence[tuple[LabelledPair, Verdict]]) -> Accuracy:
    outcomes = [(pair.label, verdict.outcome) for pair, verdict in judged]
    return Accuracy(
        category=category,
        pairs=len(outcomes),
        right=sum(label == outcome for label, outcome in outcomes),
        false_accepts=outcomes.count(("wrong", "correct")),
        false_rejects=outcomes.count(("correct", "wrong")),
        unscored=sum(outcome == "unscored" for _, outcome in outcomes),
    )


def mistakes(pairs: Sequence[LabelledPair], verdicts: Sequence[Verdict]) -> list[Mistake]:
    """Return every pair whose verdict is not its label."""
    return [Mistake(p, v) for p, v in zip(pairs, verdicts, strict=True) if v.outcome != p.label]
