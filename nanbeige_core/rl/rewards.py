"""Reward groups of responses: by verification (STEM, coding) or by a pairwise judge (human preference)."""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple, Protocol

from nanbeige_core.generate.protocol import Completion, Engine
from nanbeige_core.recipe.configs.rl import RewardScheme
from nanbeige_core.rl.judge import judged_answer
from nanbeige_core.rl.preference import Group, Judge, group_rewards
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Answered, Scorer


class Rollout(NamedTuple):
    """One response with its reward (nan = unscored)."""

    row: PromptRow
    completion: Completion
    text: str
    reward: float
    reason: str

    @property
    def truncated(self) -> bool:
        """Tell whether the response ran out of tokens."""
        return self.completion.finish_reason == "length"

    @property
    def scored(self) -> bool:
        """Tell whether the reward is known."""
        return not math.isnan(self.reward)


class Rewarder(Protocol):
    """Reward whole groups; step-numbered so that a random choice is the same after a resume."""

    def reward(
        self, rows: Sequence[PromptRow], groups: Sequence[Sequence[Completion]], *, step: int
    ) -> list[list[Rollout]]:
        """Return the groups with rewards, in order."""
        ...


class VerifiedRewards:
    """1 for a correct response, 0 for a wrong one, nan where the verifier could not tell."""

    def __init__(self, engine: Engine, scorer: Scorer) -> None:
        self._engine = engine
        self._scorer = scorer

    def reward(
        self, rows: Sequence[PromptRow], groups: Sequence[Sequence[Completion]], *, step: int
    ) -> list[list[Rollout]]:
        """Verify every response of every group in one batch."""
        del step
        flat = [(row, item) for row, group in zip(rows, groups, strict=True) for item in group]
        answers = [Answered(self._engine.text(item), item.finish_reason == "length") for _, item in flat]
        verdicts = iter(self._scorer.score([row for row, _ in flat], answers))
        texts = iter(answers)
        values = {"correct": 1.0, "wrong": 0.0}
        return [
            [
                Rollout(row, item, next(texts).text, values.get(verdict.outcome, math.nan), verdict.reason)
                for item, verdict in zip(group, verdicts, strict=False)  # the last group ends first
            ]
            for row, group in zip(rows, groups, strict=True)
        ]


class JudgedRewards:
    """The mean win probability of a response within its group, by the configured scheme."""

    def __init__(self, engine: Engine, judge: Judge, scheme: RewardScheme, *, seed: int) -> None:
        self._engine = engine
        self._judge = judge
        self._scheme: RewardScheme = scheme
        self._seed = seed

    def reward(
        self, rows: Sequence[PromptRow], groups: Sequence[Sequence[Completion]], *, step: int
    ) -> list[list[Rollout]]:
        """Judge all comparisons of all groups in one batch."""
        texts = [[self._engine.text(item) for item in group] for group in groups]
        judged = [
            Group(row.prompt, [judged_answer(text) for text in group], row.answer)
            for row, group in zip(rows, texts, strict=True)
        ]
        random = Random(f"{self._seed}:{step}:{rows[0].id if rows else ''}")
        rewards = group_rewards(self._judge, judged, self._scheme, random)
        return [
            [
                Rollout(row, item, text, reward, "judged" if not math.isnan(reward) else "does not fit the judge")
                for item, text, reward in zip(*group, strict=True)
            ]
            for row, group in zip(rows, zip(groups, texts, rewards, strict=True), strict=True)
        ]
