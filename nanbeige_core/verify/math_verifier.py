"""The ladder for mathematics: refuse, compare text, compare exact numbers, then compare symbolically in a worker.

Each rung either decides or passes on. A comparison that exceeds its limits is unscored, never wrong.
"""

import sys
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from nanbeige_core.verify.answer import NoAnswer, extract_answer, final_part
from nanbeige_core.verify.equivalence import Question, compare_quickly
from nanbeige_core.verify.tool_call import BadCall, calculate, read_call
from nanbeige_core.verify.verdict import Verdict, VerificationRequest
from nanbeige_core.verify.workers import WorkerLost, WorkerPool

WALL_SECONDS = 60.0
"""Protection only: the worker's processor-time limit decides."""
REMEMBERED = 10_000
"""Symbolic decisions kept, because the responses of one group often agree."""


class MathVerifier:
    r"""Judge the last `\boxed{}` after the thinking against `spec["gold"]`; spec["tool"] judges a tool call."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._known: OrderedDict[Question, Verdict] = OrderedDict()

    def verify(self, rows: Sequence[VerificationRequest]) -> list[Verdict]:
        """Return one verdict per row; only pairs no quick rung decides reach the workers, each pair once."""
        quick = [judge_quickly(row) for row in rows]
        pending = list(dict.fromkeys(pair for pair in quick if isinstance(pair, Question) and pair not in self._known))
        requests: list[dict[str, Any]] = [{"answer": answer, "gold": gold} for answer, gold in pending]
        for pair, reply in zip(pending, self._pool.map(requests, WALL_SECONDS), strict=True):
            self._known[pair] = judge_reply(reply)
        verdicts = [self._known[item] if isinstance(item, Question) else item for item in quick]
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return verdicts


def judge_quickly(row: VerificationRequest) -> Verdict | Question:
    """Return the verdict of the rungs that need no worker, or the question for the one that does."""
    gold = row.spec.get("gold")
    if not isinstance(gold, str):
        raise ValueError(
            f"prompt {row.prompt_id}: spec has no text under 'gold', expected the reference answer: the math "
            "verifier has nothing to compare with. Rebuild the prompt set that holds it."
        )
    if row.truncated:
        return Verdict("wrong", "truncated", "extract")
    if "tool" in row.spec:
        return judge_call(row.response_text, gold)
    answer = extract_answer(row.response_text, gold)
    if isinstance(answer, NoAnswer):
        return Verdict("wrong", answer.reason, "extract")
    decision = compare_quickly(answer.text, gold)
    if isinstance(decision, Question):
        return decision
    return Verdict("correct" if decision == "same" else "wrong", decision, "exact")


def judge_call(response: str, gold: str) -> Verdict:
    """Make the response's calculator call and compare its value."""
    try:
        value = calculate(read_call(final_part(response)))
    except BadCall as error:
        return Verdict("wrong", f"bad tool call: {error}", "tool")
    same = value == Fraction(gold)
    return Verdict("correct" if same else "wrong", "same" if same else "different", "tool")


def judge_reply(reply: dict[str, Any] | WorkerLost) -> Verdict:
    """Turn the symbolic worker's reply into a verdict; everything but a decision is unscored."""
    if isinstance(reply, WorkerLost):
        return Verdict("unscored", "processor limit" if reply.spent else reply.reason, "symbolic")
    result = reply["result"]
    if result in ("same", "different"):
        return Verdict("correct" if result == "same" else "wrong", result, "symbolic")
    return Verdict("unscored", "reference not parsed" if result == "unparsed" else reply["detail"], "symbolic")


@contextmanager
def open_math_verifier(*, workers: int) -> Generator[MathVerifier]:
    """Yield a verifier; a symbolic worker (70 MB) starts only when a pair first needs one."""
    with WorkerPool([sys.executable, "-m", "nanbeige_core.verify.symbolic_worker"], workers=workers) as pool:
        yield MathVerifier(pool)
