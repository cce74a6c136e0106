"""The whole way from rewarded groups to a gradient, against a plain per-token computation in double precision."""

import math
from random import Random

import pytest
import torch
from torch import Tensor

from nanbeige_core.generate.protocol import Completion
from nanbeige_core.megatron import parity
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.rl import PolicyLossConfig
from nanbeige_core.rl.policy_update import build_batches, policy_objective, select_trained
from nanbeige_core.rl.prompts import PromptRow
from nanbeige_core.rl.rewards import Rollout

V = parity.VOCABULARY
LONGEST = 12
Groups = list[list[Rollout]]


def make_groups(seed: int) -> Groups:
    """Four groups of four: mixed rewards, one truncated, one unscored, one group of equal rewards."""
    random = Random(seed)
    rewards = [[1, 0, 0, 1], [0, 1, math.nan, 0], [1, 1, 1, 1], [0.2, 0.9, 0.4, 0.4]]
    groups: Groups = []
    for number, values in enumerate(rewards):
        row = PromptRow(f"p{number}", "math", "rl", "en", "?", "", "", "math", "{}", "test")
        prompt = tuple(random.randrange(V) for _ in range(random.randint(2, 6)))
        group: list[Rollout] = []
        for index, reward in enumerate(values):
            tokens = tuple(random.randrange(V) for _ in range(random.randint(1, LONGEST)))
            logprobs = tuple(math.log(random.uniform(0.005, 0.05)) for _ in tokens)
            finish = "length" if (number, index) == (0, 1) else "stop"
            group.append(Rollout(row, Completion(prompt, tokens, logprobs, finish), "", reward, ""))
        groups.append(group)
    return groups


def by_hand(table_VV: Tensor, groups: Groups, config: PolicyLossConfig) -> Tensor:
    """GRPO with DAPO's token mean written out: one Python loop per token, nothing packed or batched."""
    terms: list[tuple[int, list[Tensor]]] = []
    for group in groups:
        scored = [rollout.reward for rollout in group if not math.isnan(rollout.reward)]
        if len(set(scored)) < 2:
            continue
        mean = sum(scored) / len(scored)
        deviation = math.sqrt(sum((r - mean) ** 2 for r in scored) / (len(scored) - 1))
        for rollout in group:
            if math.isnan(rollout.reward) or (rollout.completion.finish_reason == "length" and config.mask_truncated):
                continue
            advantage = rollout.reward - mean
            if config.baseline == "leave_one_out":
                advantage *= len(scored) / (len(scored) - 1)
            if config.scale == "standard_deviation":
                advantage /= deviation + config.epsilon
            tokens = [*rollout.completion.prompt_ids, *rollout.completion.token_ids]
            losses: list[Tensor] = []
            for index, gen in enumerate(rollout.completion.logprobs):
                place = len(rollout.completion.prompt_ids) + index
                logits = table_VV[tokens[place - 1]]
                logp = logits[tokens[place]] - torch.logsumexp(logits, 0)
                weight = math.exp(float(logp) - gen)
                if config.importance_cap is not None:
                    weight = min(weight, config.importance_cap)
                else:
                    weight = 1.0
                # strictly on-policy: the ratio is 1 and its gradient that of the log-probability
                losses.append(-advantage * weight * torch.exp(logp - logp.detach()))
            terms.append((len(losses), losses))
    tokens_in_all = sum(length for length, _ in terms)
    total = torch.zeros((), dtype=torch.float64)
    for length, losses in terms:
        divisor = {
            "token_mean": tokens_in_all,
            "sequence_mean": length * len(terms),
            "constant": LONGEST * len(terms),
        }[config.aggregation]
        total = total + sum(losses) / divisor
    return total


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregation": "sequence_mean"},
        {"aggregation": "constant", "scale": "none"},
        {"baseline": "leave_one_out"},
        {"importance_cap": None},
        {"mask_truncated": False},
    ],
)
def test_loss_and_gradient_equal_the_plain_computation(trainer: Trainer, changes: dict[str, object]) -> None:
    config = PolicyLossConfig.model_validate(changes)
    generator = torch.Generator().manual_seed(3)
    table_VV = torch.randn(V, V, generator=generator, dtype=torch.float64).requires_grad_()
    groups = make_groups(1)
    batches = build_batches(trainer, select_trained(groups, config), config, longest=LONGEST, row_tokens=30)
    assert len(batches) > 1
    ours = sum(
        (
            policy_objective(table_VV[batch.tokens_BS], batch, config, temperature=1.0, vocab_size=V)[0]
            for batch in batches
        ),
        start=torch.zeros((), dtype=torch.float64),
    )
    theirs = by_hand(table_VV, groups, config)
    (our_gradient,) = torch.autograd.grad(ours, table_VV)
    (their_gradient,) = torch.autograd.grad(theirs, table_VV)
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    assert torch.allclose(our_gradient, their_gradient, atol=1e-6)
    assert float(our_gradient.abs().max()) > 1e-3


def test_a_truncated_response_shifts_the_advantages_of_its_group_and_gets_no_gradient() -> None:
    config = PolicyLossConfig()
    group = make_groups(1)[0]
    trained = select_trained([group], config)
    assert len(trained) == 3
    assert [advantage for _, advantage in trained] == pytest.approx([0.866, -0.866, 0.866], abs=1e-3)


def test_equal_rewards_leave_nothing_to_train() -> None:
    assert select_trained([make_groups(1)[2]], PolicyLossConfig()) == []
