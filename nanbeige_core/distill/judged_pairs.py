"""Pairs of open answers, which no verifier can judge: a judge compares the teacher's with the student's.

A pair is kept only where the teacher's answer wins by far in both orders; a verdict that follows the position, and not
the answer, keeps nothing.
"""

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from nanbeige_core.contract import Job
from nanbeige_core.generate.engines import open_endpoint
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.distill import PreferencePairsConfig
from nanbeige_core.rl.judge import TEMPLATE, PairwiseJudge, Verdicts, judged_answer
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.sft.chat import Message
from nanbeige_core.sft.sampling import Drawn, ServedWriter, Writer

VERDICT = SamplingConfig(temperature=0.0, max_new_tokens=16)
_LETTER = re.compile(r"\W*(?:answer\W+)?([AB])(?=\W*$|[^\w\s]|\s+is\b)", re.IGNORECASE)
"""A verdict, and not the article that a sentence begins with."""


class Compares(Protocol):
    """A pairwise judge; `rl.judge.PairwiseJudge` satisfies it."""

    def verdicts(self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]) -> Verdicts:
        """Return the probability that A is better in each order; nan where it could not be judged."""
        ...


class Gap(NamedTuple):
    """The probability that the teacher's answer is better, shown first and shown second."""

    first: float
    second: float

    @property
    def judged(self) -> bool:
        """Tell whether both orders were judged."""
        return not any(math.isnan(order) for order in self)

    def far(self, minimum: float) -> bool:
        """Tell whether it wins by far in both orders."""
        return self.judged and min(self) >= minimum


class Judged(NamedTuple):
    """What was kept of a prompt, why no more, and every comparison made."""

    pairs: list[tuple[Drawn, Drawn]]
    kept: list[Gap]
    reason: str
    gaps: list[Gap]


@dataclass(frozen=True)
class ServedJudge:
    """A model behind an endpoint that is asked for the letter of the better answer."""

    writer: Writer

    def verdicts(self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]) -> Verdicts:
        """Ask in both orders, all in one batch; a reply without a letter is no verdict."""
        asked = [_ask(*triple) for triple in zip(prompts, answers_a, answers_b, strict=True)]
        asked += [_ask(*triple) for triple in zip(prompts, answers_b, answers_a, strict=True)]
        wins = [_first_wins(items) for items in self.writer.draw(asked, VERDICT, n=1, seed=0)]
        return Verdicts(wins[: len(prompts)], [1 - win for win in wins[len(prompts) :]])


def _ask(prompt: str, answer_a: str, answer_b: str) -> list[Message]:
    content = TEMPLATE.format(prompt=prompt, answer_a=answer_a, answer_b=answer_b)
    return [{"role": "user", "content": f"{content} Reply with the letter alone."}]


def _first_wins(items: Sequence[Drawn]) -> float:
    found = _LETTER.match(judged_answer(items[0].text)) if items else None
    return math.nan if found is None else float(found.group(1).upper() == "A")


def open_judge(job: Job, config: PreferencePairsConfig, stack: ExitStack) -> Compares | None:
    """Return who compares open answers: a served model, the input reward model, or nobody."""
    if config.judge:
        engine = open_endpoint(config.judge, job.runtime)
        stack.callback(engine.close)
        return ServedJudge(ServedWriter(engine))
    if "reward_model" in job.inputs:
        return PairwiseJudge.open(job.inputs["reward_model"].path, job.inputs["tokenizer"].path, job.runtime)
    return None


def judge_pairs(
    judge: Compares,
    rows: Sequence[PromptRow],
    teacher: Sequence[Sequence[Drawn]],
    student: Sequence[Sequence[Drawn]],
    config: PreferencePairsConfig,
) -> list[Judged]:
    """Compare the n-th usable answer of the teacher with the student's n-th finished one, for every prompt at once."""
    candidates = [_candidates(*sides) for sides in zip(teacher, student, strict=True)]
    flat = [(row.prompt, *pair) for row, pairs in zip(rows, candidates, strict=True) for pair in pairs]
    verdicts = judge.verdicts(
        [prompt for prompt, _, _ in flat],
        [judged_answer(positive.text) for _, positive, _ in flat],
        [judged_answer(negative.text) for _, _, negative in flat],
    )
    gaps = iter([Gap(*orders) for orders in zip(verdicts.a_first, verdicts.b_first, strict=True)])
    return [
        _choose(pairs, [next(gaps) for _ in pairs], sides, config)
        for pairs, sides in zip(candidates, zip(teacher, student, strict=True), strict=True)
    ]


def _candidates(teacher: Sequence[Drawn], student: Sequence[Drawn]) -> list[tuple[Drawn, Drawn]]:
    positives = [drawn for drawn in teacher if drawn.usable]
    negatives = [drawn for drawn in student if drawn.trainable and not drawn.truncated]
    return list(zip(positives, negatives, strict=False))


def _choose(
    pairs: list[tuple[Drawn, Drawn]],
    gaps: list[Gap],
    sides: tuple[Sequence[Drawn], Sequence[Drawn]],
    config: PreferencePairsConfig,
) -> Judged:
    far = [at for at, gap in enumerate(gaps) if gap.far(config.minimum_win)]
    best = sorted(far, key=lambda at: -min(gaps[at]))[: config.pairs_per_prompt]
    reason = "kept" if best else _why_none(gaps, sides, config.minimum_win)
    return Judged([pairs[at] for at in best], [gaps[at] for at in best], reason, gaps)


def _why_none(gaps: list[Gap], sides: tuple[Sequence[Drawn], Sequence[Drawn]], minimum: float) -> str:
    if not all(sides):
        return "no_prompt_room"
    if not gaps:
        return "student_unfinished" if any(drawn.usable for drawn in sides[0]) else "teacher_unusable"
    if not any(gap.judged for gap in gaps):
        return "unscored"
    swapped = any(Gap(1 - gap.first, 1 - gap.second).far(minimum) for gap in gaps)
    return "swapped" if swapped else "not_far_better"
