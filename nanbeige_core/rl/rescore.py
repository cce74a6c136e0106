"""Score stored rollouts again with today's verifier, and show every verdict that a change of it has flipped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.rollout_table import StoredRollout
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.verify.verdict import VerifierKind

VERIFIED = get_args(VerifierKind)
REWARDS = {"correct": 1.0, "wrong": 0.0}


class Flip(NamedTuple):
    """A rollout whose verdict changed."""

    old: StoredRollout
    new: StoredRollout


class Rescored(NamedTuple):
    """All rollouts under the new verdicts, and those that differ.

    `kept` counts rollouts that no verifier judges (win rates of a judge) or whose prompt is not known.
    """

    rollouts: list[StoredRollout]
    flips: list[Flip]
    kept: int

    def transitions(self) -> list[dict[str, object]]:
        """Return how many rollouts went from each verdict to each other one."""
        pairs = Counter((flip.old.verdict, flip.new.verdict) for flip in self.flips)
        return [{"was": old, "is": new, "rollouts": count} for (old, new), count in pairs.most_common()]


def rescore(rollouts: Sequence[StoredRollout], prompts: Mapping[str, PromptRow], scorer: Scorer) -> Rescored:
    """Return the rollouts with the verdicts that `scorer` gives today; order is kept."""
    judged = [
        index
        for index, rollout in enumerate(rollouts)
        if rollout.prompt_id in prompts and prompts[rollout.prompt_id].verifier in VERIFIED and rollout.tokens
    ]
    rows = [prompts[rollouts[index].prompt_id] for index in judged]
    answers = [Answered(rollouts[index].text, rollouts[index].finish_reason == "length") for index in judged]
    result = list(rollouts)
    for index, verdict in zip(judged, scorer.score(rows, answers), strict=True):
        result[index] = result[index]._replace(
            verdict=verdict.outcome, reward=REWARDS.get(verdict.outcome), reason=verdict.reason
        )
    flips = [Flip(old, new) for old, new in zip(rollouts, result, strict=True) if old.verdict != new.verdict]
    return Rescored(result, flips, len(rollouts) - len(judged))
