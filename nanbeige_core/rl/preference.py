"""Turn pairwise verdicts into one reward for each response of a group.

Schemes: `pivot` compares each response with one random response of its group, which itself gets 0.5 (BRPO,
2506.00103); `reference` compares with a frozen reference answer; `circular` with both neighbours in a ring;
`all_pairs` with every other response. A reward is the mean win probability; a comparison the judge could not make
(nan) leaves the mean, and a response without any is unscored (nan), never a default score.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple, Protocol

from nanbeige_core.recipe.configs.rl import RewardScheme

REFERENCE = -1
"""Index of the reference answer in a comparison."""


class Judge(Protocol):
    """Compare two answers to a prompt."""

    def win_probability(
        self, prompts: Sequence[str], answers_a: Sequence[str], answers_b: Sequence[str]
    ) -> list[float]:
        """Return for each triple the probability that A is better, both orders averaged; nan = could not judge."""
        ...


class Group(NamedTuple):
    """The answers of one prompt and its frozen reference answer."""

    prompt: str
    answers: list[str]
    reference: str


class Comparison(NamedTuple):
    """Compare answer `left` of a group with answer `right` of it (or with `REFERENCE`)."""

    group: int
    left: int
    right: int


def plan_comparisons(groups: Sequence[Group], scheme: RewardScheme, random: Random) -> list[Comparison]:
    """Return the comparisons a scheme needs, each unordered pair once."""
    planned: list[Comparison] = []
    for index, group in enumerate(groups):
        planned += [Comparison(index, left, right) for left, right in _pairs(len(group.answers), scheme, random)]
    return planned


def _pairs(size: int, scheme: RewardScheme, random: Random) -> list[tuple[int, int]]:
    if scheme == "reference":
        return [(left, REFERENCE) for left in range(size)]
    if scheme == "pivot":
        pivot = random.randrange(size)
        return [(left, pivot) for left in range(size) if left != pivot]
    if scheme == "circular" and size > 2:
        return [(left, (left + 1) % size) for left in range(size)]
    return [(left, right) for left in range(size) for right in range(left + 1, size)]


def reduce_rewards(
    groups: Sequence[Group],
    comparisons: Sequence[Comparison],
    probabilities: Sequence[float],
    scheme: RewardScheme,
) -> list[list[float]]:
    """Return the reward of every answer of every group from the win probability of each comparison's left side."""
    wins: list[list[list[float]]] = [[[] for _ in group.answers] for group in groups]
    for (group, left, right), probability in zip(comparisons, probabilities, strict=True):
        if math.isnan(probability):
            continue
        wins[group][left].append(probability)
        if scheme in ("circular", "all_pairs"):
            wins[group][right].append(1 - probability)
    rewards = [[sum(won) / len(won) if won else math.nan for won in group] for group in wins]
    if scheme == "pivot":
        for index, left_out in _pivots(comparisons).items():
            rewards[index][left_out] = 0.5
    return rewards


def _pivots(comparisons: Sequence[Comparison]) -> dict[int, int]:
    return {comparison.group: comparison.right for comparison in comparisons}


def group_rewards(judge: Judge, groups: Sequence[Group], scheme: RewardScheme, random: Random) -> list[list[float]]:
    """Judge all groups in one batch and return their rewards."""
    comparisons = plan_comparisons(groups, scheme, random)
    probabilities = judge.win_probability(
        [groups[item.group].prompt for item in comparisons],
        [groups[item.group].answers[item.left] for item in comparisons],
        [
            groups[item.group].reference if item.right == REFERENCE else groups[item.group].answers[item.right]
            for item in comparisons
        ],
    )
    return reduce_rewards(groups, comparisons, probabilities, scheme)
