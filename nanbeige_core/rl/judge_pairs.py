"""Pairs a judge learns from: a real reference answer against policy samples and corruptions of it."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random
from typing import NamedTuple

from nanbeige_core.rl.prompts import PromptRow

TIE = "tie"
POLICY = "policy_sample"


class JudgePair(NamedTuple):
    """Two answers to a prompt; `label` is the probability that `better` is better (0.5 for a tie)."""

    prompt_id: str
    prompt: str
    better: str
    worse: str
    kind: str
    label: float


Corruption = Callable[[PromptRow, Sequence[PromptRow], Random], str]


def repeat(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Say the answer's first half again and again: the longer text is not the better one."""
    del rows, random
    half = row.answer[: max(1, len(row.answer) // 2)]
    return f"{half} {half} {half}"


def truncate(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Stop in the middle."""
    del rows
    return row.answer[: max(1, int(len(row.answer) * random.uniform(0.2, 0.6)))]


def other_language(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Answer in another language than the question's; another answer where all share one language."""
    others = [other for other in rows if other.language != row.language]
    return random.choice(others or list(rows)).answer


def other_prompt(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Answer another question of the same language."""
    others = [other for other in rows if other.language == row.language and other.id != row.id]
    return random.choice(others or list(rows)).answer


def echo(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Say the question back."""
    del rows, random
    return row.prompt


def empty(row: PromptRow, rows: Sequence[PromptRow], random: Random) -> str:
    """Say nothing."""
    del row, rows, random
    return ""


CORRUPTIONS: dict[str, Corruption] = {
    "other_prompt": other_prompt,
    "truncated": truncate,
    "repeated": repeat,
    "other_language": other_language,
    "echo": echo,
    "empty": empty,
}


def is_validation(prompt_id: str, share: float) -> bool:
    """Tell whether a prompt's pairs validate; a prompt's side depends on its id alone."""
    return int(sha256(prompt_id.encode()).hexdigest()[:8], 16) / 2**32 < share


def build_pairs(
    rows: Sequence[PromptRow],
    policy_answers: Sequence[Sequence[str]],
    *,
    corruptions: int,
    ties: float,
    seed: int,
) -> list[JudgePair]:
    """Return for each prompt its policy pairs, `corruptions` kinds of corruption, and a share of ties.

    A rejected text equal to the reference is no rejection and is left out. Kinds rotate over prompts, so all occur.
    """
    names = list(CORRUPTIONS)
    pairs: list[JudgePair] = []
    for number, (row, answers) in enumerate(zip(rows, policy_answers, strict=True)):
        random = Random(f"{seed}:{row.id}")
        rejected = [(POLICY, answer) for answer in dict.fromkeys(answers)]
        for offset in range(corruptions):
            name = names[(number * corruptions + offset) % len(names)]
            rejected.append((name, CORRUPTIONS[name](row, rows, random)))
        pairs += [
            JudgePair(row.id, row.prompt, row.answer, worse, kind, 1.0)
            for kind, worse in rejected
            if worse.strip() != row.answer.strip()
        ]
        if random.random() < ties:
            pairs.append(JudgePair(row.id, row.prompt, row.answer, row.answer, TIE, 0.5))
    return pairs
