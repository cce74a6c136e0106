"""Measure how often a policy solves verifiable problems, before and after a stage.

Problems are split over ranks and the results gathered on every rank. A truncated response and a prompt that does not
fit the window are wrong and counted apart; an unscored response leaves the mean of its problem.
"""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Gain
from nanbeige_core.evals.statistics import paired_gain
from nanbeige_core.generate.protocol import Completion, Engine
from nanbeige_core.launch.ranks import gather_objects, rank, world_size
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.scoring import Answered, Scorer
from nanbeige_core.sft.chat import encode_prompt


class Attempt(NamedTuple):
    """One response to one problem. `outcome` is correct, wrong or unscored."""

    prompt_id: str
    domain: str
    text: str
    outcome: str
    reason: str
    truncated: bool
    tokens: int


class Scores(NamedTuple):
    """What a policy scored on a list of problems, in that list's order."""

    prompt_ids: list[str]
    values: list[float]
    """Share of correct responses among the scored ones of each problem, 0 to 1 (0 when none was scored)."""
    attempts: list[Attempt]

    @property
    def mean(self) -> float:
        """Return the mean over problems, 0 for an empty list."""
        return sum(self.values) / len(self.values) if self.values else 0.0

    def by_problem(self) -> dict[str, float]:
        """Return problem -> value, without problems of which nothing could be scored."""
        scored = {attempt.prompt_id for attempt in self.attempts if attempt.outcome != "unscored"}
        return {name: value for name, value in zip(self.prompt_ids, self.values, strict=True) if name in scored}

    def count(self, outcome: str) -> int:
        """Return how many responses had this outcome."""
        return sum(attempt.outcome == outcome for attempt in self.attempts)

    @property
    def truncated(self) -> int:
        """Return how many responses ran out of tokens."""
        return sum(attempt.truncated for attempt in self.attempts)


class EncodedPrompts(NamedTuple):
    """Prompts that leave room for a whole response, and those that do not."""

    rows: list[PromptRow]
    ids: list[list[int]]
    too_long: list[PromptRow]


def encode_fitting(
    tokenizer: PreTrainedTokenizerFast, rows: Sequence[PromptRow], *, window: int, max_new_tokens: int
) -> EncodedPrompts:
    """Render and encode prompts; those with fewer than `max_new_tokens` left in the window are set aside."""
    fitting, ids, too_long = list[PromptRow](), list[list[int]](), list[PromptRow]()
    for row in rows:
        encoded = encode_prompt(tokenizer, [{"role": "user", "content": row.prompt}])
        if len(encoded) + max_new_tokens > window:
            too_long.append(row)
        else:
            fitting.append(row)
            ids.append(encoded)
    return EncodedPrompts(fitting, ids, too_long)


def measure(
    engine: Engine,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[PromptRow],
    sampling: SamplingConfig,
    scorer: Scorer,
    *,
    n: int,
    seed: int,
) -> Scores:
    """Draw `n` responses to each problem and verify them; call it on every rank with the same arguments.

    Collectives: one all-gather of the attempts. What is drawn follows from prompt and seed, so the number
    of ranks does not change the result.
    """
    mine = list(rows[rank() :: world_size()])
    prompts = encode_fitting(tokenizer, mine, window=engine.window, max_new_tokens=sampling.max_new_tokens)
    drawn = engine.generate(prompts.ids, sampling, n=n, seed=seed) if prompts.ids else []
    attempts = _score(engine, prompts.rows, drawn, scorer)
    attempts += [
        Attempt(row.id, row.domain, "", "wrong", "the prompt does not fit the window", False, 0)
        for row in prompts.too_long
        for _ in range(n)
    ]
    return collect(rows, [attempt for part in gather_objects(attempts) for attempt in part])


def gain(metric: str, before: Scores, after: Scores) -> Gain:
    """Return the paired difference of two measurements on the same problems as a stage's gain."""
    return paired_gain(metric, before.values, after.values)


def _score(engine: Engine, rows: list[PromptRow], drawn: list[list[Completion]], scorer: Scorer) -> list[Attempt]:
    flat = [(row, item) for row, completions in zip(rows, drawn, strict=True) for item in completions]
    answers = [Answered(engine.text(item), item.finish_reason == "length") for _, item in flat]
    verdicts = scorer.score([row for row, _ in flat], answers)
    return [
        Attempt(
            row.id,
            row.domain,
            answer.text,
            # a truncated answer is wrong (recipe: evaluation), even where the verifier could read a result in it
            "wrong" if answer.truncated else verdict.outcome,
            "truncated" if answer.truncated else verdict.reason,
            answer.truncated,
            len(item.token_ids),
        )
        for (row, item), answer, verdict in zip(flat, answers, verdicts, strict=True)
    ]


def collect(rows: Sequence[PromptRow], attempts: Sequence[Attempt]) -> Scores:
    """Average each problem's scored attempts; problems come in the order of `rows`."""
    by_prompt: dict[str, list[Attempt]] = {row.id: [] for row in rows}
    for attempt in attempts:
        by_prompt[attempt.prompt_id].append(attempt)
    values: list[float] = []
    for tries in by_prompt.values():
        scored = [attempt for attempt in tries if attempt.outcome != "unscored"]
        values.append(sum(attempt.outcome == "correct" for attempt in scored) / max(1, len(scored)))
    return Scores(list(by_prompt), values, [attempt for tries in by_prompt.values() for attempt in tries])
