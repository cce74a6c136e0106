"""Measure an RL stage on problems it never trains on, before and after: pass rate, or win rate by the judge."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from transformers import PreTrainedTokenizerFast

from nanbeige_core.evals.exact_match import encode_fitting, measure
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.launch.ranks import gather_objects, rank, world_size
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.judge import judged_answer
from nanbeige_core.rl.preference import Judge
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Scorer


class Measured(NamedTuple):
    """One value per held-out problem, and example responses (prompt id, text, value).

    `by_problem` leaves out problems of which nothing could be judged.
    """

    values: list[float]
    examples: list[tuple[str, str, float]]
    truncated_share: float
    by_problem: dict[str, float]

    @property
    def mean(self) -> float:
        """Return the mean over problems."""
        return sum(self.values) / len(self.values) if self.values else 0.0


class HeldOut(Protocol):
    """A measurement that can be repeated on the same problems with other weights."""

    @property
    def metric(self) -> str:
        """Return what is measured, in words."""
        ...

    @property
    def measure_name(self) -> str:
        """Return the name of the per-problem records."""
        ...

    def measure(self, *, seed: int) -> Measured:
        """Sample and score; collective over all ranks."""
        ...


class PassRate:
    """Share of verified responses among several per problem."""

    metric = "held-out pass rate"
    measure_name = "heldout_pass_rate"

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerFast,
        rows: Sequence[PromptRow],
        sampling: SamplingConfig,
        scorer: Scorer,
        *,
        samples: int,
    ) -> None:
        self._engine, self._tokenizer, self._scorer = engine, tokenizer, scorer
        self._rows, self._sampling, self._samples = list(rows), sampling, samples

    def measure(self, *, seed: int) -> Measured:
        """Sample every problem and verify."""
        scores = measure(
            self._engine,
            self._tokenizer,
            self._rows,
            self._sampling,
            self._scorer,
            n=self._samples,
            seed=seed,
        )
        examples = [(a.prompt_id, a.text, float(a.outcome == "correct")) for a in scores.attempts[:: self._samples]]
        truncated = scores.truncated / max(1, len(scores.attempts))
        return Measured(scores.values, examples, truncated, scores.by_problem())


class WinRate:
    """Mean probability of beating frozen responses of the policy as it was when this object was made.

    The first measurement, at those same weights, is therefore near 0.5 and says how noisy the judge is.
    """

    metric = "held-out win rate against the policy before the stage"
    measure_name = "heldout_win_rate"

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerFast,
        rows: Sequence[PromptRow],
        sampling: SamplingConfig,
        judge: Judge,
        *,
        samples: int,
        seed: int,
    ) -> None:
        self._engine, self._judge, self._sampling, self._samples = engine, judge, sampling, samples
        self._prompts = encode_fitting(
            tokenizer, rows[rank() :: world_size()], window=engine.window, max_new_tokens=sampling.max_new_tokens
        )
        self._opponents = self._sample(seed=seed + 7919)

    def _sample(self, *, seed: int) -> list[list[str]]:
        if not self._prompts.ids:
            return []
        drawn = self._engine.generate(self._prompts.ids, self._sampling, n=self._samples, seed=seed)
        return [[self._engine.text(item) for item in group] for group in drawn]

    def measure(self, *, seed: int) -> Measured:
        """Sample every problem and compare each response with its frozen opponent."""
        texts = self._sample(seed=seed)
        triples = [
            (row.prompt, judged_answer(ours), judged_answer(theirs))
            for row, group, against in zip(self._prompts.rows, texts, self._opponents, strict=True)
            for ours, theirs in zip(group, against, strict=True)
        ]
        prompts, ours, theirs = ([triple[part] for triple in triples] for part in range(3))
        wins = self._judge.win_probability(prompts, ours, theirs)
        local: list[tuple[str, str, float]] = []
        judged: dict[str, float] = {}
        for index, (row, group) in enumerate(zip(self._prompts.rows, texts, strict=True)):
            part = [win for win in wins[index * self._samples : (index + 1) * self._samples] if not math.isnan(win)]
            # a problem no comparison of which fits the judge says nothing about either policy
            local.append((row.id, group[0], sum(part) / len(part) if part else 0.5))
            judged |= {row.id: sum(part) / len(part)} if part else {}
        everything = [item for part in gather_objects(local) for item in part]
        by_problem = {name: value for part in gather_objects(judged) for name, value in part.items()}
        return Measured([value for _, _, value in everything], everything, 0.0, by_problem)
