"""Where the groups of an RL step come from: sampled now, or stored by an earlier stage and scored again."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from random import Random
from typing import NamedTuple, Protocol

from nanbeige_core.contract import Job
from nanbeige_core.evals.exact_match import EncodedPrompts
from nanbeige_core.generate.protocol import Completion, Engine, FinishReason
from nanbeige_core.recipe.configs.base import SamplingConfig
from nanbeige_core.recipe.configs.rl import RlConfig, RolloutsConfig
from nanbeige_core.rl.judge import PairwiseJudge
from nanbeige_core.rl.policy import Policy, fitting_prompts, make_rewarder, open_judgement, open_policy
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.rewards import Rewarder, Rollout
from nanbeige_core.rl.rollout_table import StoredRollout, updates_of
from nanbeige_core.rl.scoring import Scorer


class Source(Protocol):
    """Give the groups of a step; the same groups whenever the step is repeated."""

    def groups(self, step: int, part: int, parts: int) -> list[list[Rollout]]:
        """Return every `parts`-th group of the step, from the `part`-th on."""
        ...

    def updates(self, step: int, held: int) -> int:
        """Return after how many updates of its start the policy sampled the step; `held` is the engine's number."""
        ...


class SampledSource(NamedTuple):
    """Sample the current policy and reward what it says."""

    engine: Engine
    rewarder: Rewarder
    prompts: EncodedPrompts
    sampling: SamplingConfig
    prompts_per_step: int
    group_size: int
    seed: int

    def groups(self, step: int, part: int, parts: int) -> list[list[Rollout]]:
        """Draw with random numbers that follow from seed, step and prompt."""
        chosen = step_prompts(len(self.prompts.rows), self.prompts_per_step, step, seed=self.seed)[part::parts]
        drawn = self.engine.generate(
            [self.prompts.ids[index] for index in chosen],
            self.sampling,
            n=self.group_size,
            seed=step_seed(self.seed, step),
        )
        return self.rewarder.reward([self.prompts.rows[index] for index in chosen], drawn, step=step)

    def updates(self, step: int, held: int) -> int:
        """Return the engine's number: what is sampled now is sampled from the weights it holds."""
        del step
        return held


class Sampling(NamedTuple):
    """What a stage samples with: the policy, who judges, the prompts, and the source made of them."""

    policy: Policy
    judgement: Scorer | PairwiseJudge
    prompts: EncodedPrompts
    source: SampledSource


def open_sampling(job: Job, opened: ExitStack, config: RlConfig | RolloutsConfig) -> Sampling:
    """Open the engine over the stage's checkpoint and all that its groups need; pools stay open as long as `opened`.

    Raises ValueError for fewer prompts than a step takes and where nobody can judge the domain.
    """
    policy = open_policy(job)
    prompts = fitting_prompts(
        job,
        policy,
        config.domain,
        max_new_tokens=config.sampling.max_new_tokens,
        per_step=config.prompts_per_step,
    )
    judgement = open_judgement(job, opened, config.domain, agent=config.verifier_agent)
    source = SampledSource(
        engine=policy.engine,
        rewarder=make_rewarder(policy.engine, judgement, config.reward, seed=config.seed),
        prompts=prompts,
        sampling=config.sampling,
        prompts_per_step=config.prompts_per_step,
        group_size=config.group_size,
        seed=config.seed,
    )
    return Sampling(policy, judgement, prompts, source)


class StoredSource:
    """Replay stored groups under the verdicts of today's verifier."""

    def __init__(self, rollouts: Sequence[StoredRollout], prompts: Mapping[str, PromptRow]) -> None:
        """Group the rows by step and prompt; rows of prompts that are not in `prompts` are left out."""
        self._steps: dict[int, dict[str, list[Rollout]]] = {}
        self._updates = {stored.step: updates_of(stored.policy) for stored in rollouts}
        for stored in rollouts:
            if stored.prompt_id in prompts:
                groups = self._steps.setdefault(stored.step, {})
                groups.setdefault(stored.prompt_id, []).append(to_rollout(stored, prompts[stored.prompt_id]))

    @property
    def steps(self) -> int:
        """Return how many steps are stored, counted from 0 without a gap."""
        return next(step for step in range(len(self._steps) + 1) if step not in self._steps)

    def groups(self, step: int, part: int, parts: int) -> list[list[Rollout]]:
        """Return stored groups in stored order."""
        return list(self._steps[step].values())[part::parts]

    def updates(self, step: int, held: int) -> int:
        """Return what the stored rows say."""
        del held
        return self._updates[step]


def to_rollout(stored: StoredRollout, row: PromptRow) -> Rollout:
    """Return a stored row as the training loop knows it."""
    finish: FinishReason = "length" if stored.finish_reason == "length" else "stop"
    completion = Completion(stored.prompt_tokens, stored.tokens, stored.logprobs, finish)
    reward = float("nan") if stored.reward is None else stored.reward
    return Rollout(row, completion, stored.text, reward, stored.reason)


def step_seed(seed: int, step: int) -> int:
    """Return the sampler's seed of one step."""
    return seed * 100_003 + step * 1_009


def step_prompts(count: int, per_step: int, step: int, *, seed: int) -> list[int]:
    """Return the indices of the prompts of one step: epochs of shuffled order, no index twice in a step.

    A step that would cross an epoch's end starts the next epoch instead.
    """
    steps_per_epoch = count // per_step
    epoch, position = divmod(step, steps_per_epoch)
    order = list(range(count))
    Random(f"{seed}:{epoch}").shuffle(order)
    return order[position * per_step : (position + 1) * per_step]
