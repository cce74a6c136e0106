"""One policy update from one batch of rewarded groups: advantages, denominators, batches, optimizer step.

Shapes: B row, S position, P prompts, G responses of one prompt.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nanbeige_core.launch.ranks import gather_objects
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.trainer import StepStats, Trainer
from nanbeige_core.megatron.vocab_parallel import vocab_parallel_log_probs
from nanbeige_core.recipe.configs.rl import PolicyLossConfig
from nanbeige_core.rl.advantages import group_advantages, live_groups
from nanbeige_core.rl.losses import Clip, policy_loss, token_weight
from nanbeige_core.rl.packing import TrainedResponse, make_batches, pack_rows
from nanbeige_core.rl.rewards import Rollout


class TokenRecord(NamedTuple):
    """What the log wants of every trained token of one rank, as flat lists."""

    gap: list[float]
    """old - gen: trainer against engine, nat."""
    ratio: list[float]
    clipped_low: int
    clipped_high: int
    capped: int


class Update(NamedTuple):
    """What one update did; `stats` is None when no group anywhere had anything to teach."""

    stats: StepStats | None
    record: TokenRecord


def select_trained(groups: Sequence[Sequence[Rollout]], config: PolicyLossConfig) -> list[tuple[Rollout, float]]:
    """Return the responses that get a gradient, with their advantages.

    Advantages are computed on the full group first; then unscored responses, truncated ones (when masked) and
    groups without two different rewards leave.
    """
    trained: list[tuple[Rollout, float]] = []
    for group in groups:
        rewards_PG = torch.tensor([[rollout.reward for rollout in group]], dtype=torch.float64)
        scored_PG = torch.tensor([[rollout.scored for rollout in group]])
        if not bool(live_groups(rewards_PG.nan_to_num(), scored_PG)[0]):
            continue
        advantages_PG = group_advantages(
            rewards_PG, scored_PG, baseline=config.baseline, scale=config.scale, epsilon=config.epsilon
        )
        for rollout, advantage in zip(group, advantages_PG[0].tolist(), strict=True):
            if rollout.scored and not (config.mask_truncated and rollout.truncated):
                trained.append((rollout, advantage))
    return trained


def sum_over_data_ranks(trainer: Trainer, value: float) -> float:
    """Return the sum of `value` over data-parallel ranks, each counted once whatever the tensor parallelism."""
    by_rank: dict[int, float] = dict(gather_objects((trainer.data_rank, value)))
    return sum(by_rank.values())


def build_batches(
    trainer: Trainer,
    trained: Sequence[tuple[Rollout, float]],
    config: PolicyLossConfig,
    *,
    longest: int,
    row_tokens: int,
) -> list[Batch]:
    """Pack this rank's responses under the global denominator; empty when no rank has any."""
    tokens = sum_over_data_ranks(trainer, sum(len(rollout.completion.token_ids) for rollout, _ in trained))
    sequences = sum_over_data_ranks(trainer, len(trained))
    if sequences == 0:
        return []
    denominator = {"token_mean": tokens, "sequence_mean": sequences, "constant": sequences * longest}
    responses = [
        TrainedResponse(
            rollout.completion.prompt_ids,
            rollout.completion.token_ids,
            rollout.completion.logprobs,
            advantage,
            token_weight(
                config.aggregation,
                length=len(rollout.completion.token_ids),
                denominator=denominator[config.aggregation],
            ),
        )
        for rollout, advantage in trained
    ]
    rows = pack_rows(responses, row_tokens=row_tokens)
    wanted = -(-len(rows) // trainer.runtime.micro_batch_size)
    return make_batches(rows, max(1, *gather_objects(wanted), 1))


def add_old_log_probs(trainer: Trainer, batches: Sequence[Batch], *, temperature: float) -> None:
    """Store the trainer's log-probabilities at the rollout's weights: needed when later updates leave them."""
    for batch, old_BS in zip(batches, trainer.log_probs(batches, temperature=temperature), strict=True):
        batch.extra["old_BS"] = old_BS


def policy_objective(
    logits_BSV_tp: Tensor, batch: Batch, config: PolicyLossConfig, *, temperature: float, vocab_size: int
) -> tuple[Tensor, TokenRecord]:
    """Return one micro-batch's share of the global loss, and what the log wants to know of its tokens.

    Logits are divided by the sampler's temperature, so both speak of one policy. Collectives: those of
    `vocab_parallel_log_probs`.
    """
    scaled = logits_BSV_tp if temperature == 1 else logits_BSV_tp.float() / temperature
    result = policy_loss(
        vocab_parallel_log_probs(scaled, batch.labels_BS, vocab_size),
        batch.extra["gen_BS"],
        batch.extra["advantage_BS"],
        batch.loss_mask_BS,
        old_BS=batch.extra.get("old_BS"),
        clip=Clip(config.clip_low, config.clip_high, config.dual_clip),
        importance_cap=config.importance_cap,
    )
    mask = batch.loss_mask_BS > 0
    cap = config.importance_cap or float("inf")
    record = TokenRecord(
        gap=result.importance_BS.detach()[mask].log().tolist(),
        ratio=result.ratio_BS[mask].tolist(),
        clipped_low=int(result.clipped_low_BS.sum()),
        clipped_high=int(result.clipped_high_BS.sum()),
        capped=int((result.importance_BS[mask] > cap).sum()),
    )
    return (result.losses_BS * batch.extra["weight_BS"]).sum(), record


def update_policy(
    trainer: Trainer, batches: Sequence[Batch], config: PolicyLossConfig, *, temperature: float
) -> Update:
    """Take one optimizer step."""
    seen: list[TokenRecord] = []

    def loss(logits_BSV_tp: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        value, record = policy_objective(
            logits_BSV_tp, batch, config, temperature=temperature, vocab_size=trainer.vocab_size
        )
        seen.append(record)
        return value, {"tokens": batch.loss_mask_BS.sum()}

    stats = trainer.train_step(batches, loss) if batches else None
    return Update(stats, merge_records(seen))


def merge_records(records: Sequence[TokenRecord]) -> TokenRecord:
    """Join records of several micro-batches or ranks."""
    return TokenRecord(
        gap=[value for record in records for value in record.gap],
        ratio=[value for record in records for value in record.ratio],
        clipped_low=sum(record.clipped_low for record in records),
        clipped_high=sum(record.clipped_high for record in records),
        capped=sum(record.capped for record in records),
    )
