"""Loss and gradient against the code other projects train with, on the same tensors.

Each oracle is a package that is no dependency of this project; its test runs where it can be imported and is skipped
elsewhere. One way: pip install --no-deps --target DIR trl liger-kernel verl and what they ask for, then PYTHONPATH=DIR.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from nanbeige_core.megatron import parity
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.recipe.configs.rl import PolicyLossConfig
from nanbeige_core.rl.advantages import group_advantages
from nanbeige_core.rl.losses import token_weight
from nanbeige_core.rl.packing import TrainedResponse, make_batches
from nanbeige_core.rl.policy_update import build_batches, policy_objective, select_trained
from tests.rl.test_policy_update import LONGEST, make_groups

V, HIDDEN = parity.VOCABULARY, 16
# a mark, not importorskip: the skip must come before the fixture opens a trainer
needs_verl = pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed")
needs_liger = pytest.mark.skipif(find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
needs_trl = pytest.mark.skipif(find_spec("trl") is None, reason="trl is not installed")
CASES = [
    pytest.param({}, id="token_mean"),
    pytest.param({"aggregation": "sequence_mean"}, id="sequence_mean"),
    pytest.param({"aggregation": "constant", "scale": "none"}, id="constant"),
    pytest.param({"importance_cap": None}, id="without_importance"),
    pytest.param({"clip_low": 0.05, "clip_high": 0.07, "mask_truncated": False}, id="narrow_clip"),
]


class Padded(NamedTuple):
    """Trained responses as other projects lay them out: right-padded rows without their prompts."""

    ids_BS: Tensor
    previous_BS: Tensor
    mask_BS: Tensor
    gen_BS: Tensor
    old_BS: Tensor
    advantage_B: Tensor


class Ours(NamedTuple):
    loss: float
    gradients: tuple[Tensor, ...]


def parameters() -> tuple[Tensor, Tensor]:
    """Return the two matrices of a model whose next token depends on the current one alone."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((V, HIDDEN), (V, HIDDEN))
    embedding_VH, output_VH = (torch.randn(shape, generator=generator) for shape in shapes)
    return embedding_VH.requires_grad_(), (output_VH * 0.7).requires_grad_()


def old_table() -> Tensor:
    """Return the log-probabilities at the rollout's weights [V, V]: near the policy's, so that some ratios clip."""
    embedding_VH, output_VH = (parameter.detach() for parameter in parameters())
    noise_VH = torch.randn(V, HIDDEN, generator=torch.Generator().manual_seed(4)) * 0.03
    return torch.log_softmax((embedding_VH + noise_VH) @ output_VH.T, dim=-1)


def ours(trainer: Trainer, config: PolicyLossConfig, *, with_old: bool) -> Ours:
    """Run the stage's own way: packed batches under the global denominator."""
    trained = select_trained(make_groups(1), config)
    batches = build_batches(trainer, trained, config, longest=LONGEST, row_tokens=30)
    embedding_VH, output_VH = parameters()
    total = torch.zeros(())
    for batch in batches:
        if with_old:
            batch.extra["old_BS"] = old_table()[batch.tokens_BS, batch.labels_BS]
        logits_BSV = embedding_VH[batch.tokens_BS] @ output_VH.T
        total = total + policy_objective(logits_BSV, batch, config, temperature=1.0, vocab_size=V)[0]
    return Ours(float(total.detach()), torch.autograd.grad(total, (embedding_VH, output_VH)))


def pad(config: PolicyLossConfig) -> Padded:
    trained = select_trained(make_groups(1), config)
    ids_BS, previous_BS = (torch.zeros(len(trained), LONGEST, dtype=torch.long) for _ in range(2))
    mask_BS, gen_BS = (torch.zeros(len(trained), LONGEST) for _ in range(2))
    for row, (rollout, _) in enumerate(trained):
        done = rollout.completion
        length = len(done.token_ids)
        ids_BS[row, :length] = torch.tensor(done.token_ids)
        previous_BS[row, :length] = torch.tensor([done.prompt_ids[-1], *done.token_ids[:-1]])
        mask_BS[row, :length] = 1
        gen_BS[row, :length] = torch.tensor(done.logprobs)
    advantage_B = torch.tensor([advantage for _, advantage in trained])
    return Padded(ids_BS, previous_BS, mask_BS, gen_BS, old_table()[previous_BS, ids_BS], advantage_B)


def importance(padded: Padded, config: PolicyLossConfig, old_BS: Tensor) -> Tensor | None:
    if config.importance_cap is None:
        return None
    return torch.exp(old_BS - padded.gen_BS).clamp_max(config.importance_cap)


def assert_equal(mine: Ours, loss: Tensor, gradients: tuple[Tensor, ...]) -> None:
    assert mine.loss == pytest.approx(float(loss), abs=2e-6)
    for own, theirs in zip(mine.gradients, gradients, strict=True):
        assert float(own.abs().max()) > 1e-3
        assert torch.allclose(own, theirs, atol=2e-6), float((own - theirs).abs().max())


@needs_verl
@pytest.mark.parametrize("changes", [*CASES, pytest.param({"dual_clip": 1.05}, id="dual_clip")])
def test_loss_and_gradient_are_verls(trainer: Trainer, changes: dict[str, Any]) -> None:
    from verl.trainer.ppo import core_algos, rollout_corr_helper  # pyright: ignore
    from verl.workers.config.actor import ActorConfig  # pyright: ignore

    config = PolicyLossConfig.model_validate(changes)
    padded = pad(config)
    embedding_VH, output_VH = parameters()
    table_VV = torch.log_softmax(embedding_VH @ output_VH.T, dim=-1)
    weights_BS = None
    if config.importance_cap is not None:
        weights_BS, _ = rollout_corr_helper.compute_rollout_correction_weights(
            padded.old_BS - padded.gen_BS, padded.mask_BS, rollout_is_threshold=config.importance_cap
        )
    actor: Any = ActorConfig(
        strategy="fsdp",
        ppo_micro_batch_size_per_gpu=1,
        rollout_n=1,
        clip_ratio_low=config.clip_low,
        clip_ratio_high=config.clip_high,
        # verl has no switch for dual clip: beyond any ratio here it is off
        clip_ratio_c=config.dual_clip or 1e6,
    )
    modes = {
        "token_mean": "token-mean",
        "sequence_mean": "seq-mean-token-mean",
        "constant": "seq-mean-token-sum-norm",
    }
    loss, _ = core_algos.compute_policy_loss_vanilla(
        padded.old_BS,
        table_VV[padded.previous_BS, padded.ids_BS],
        padded.advantage_B[:, None].expand_as(padded.mask_BS),
        padded.mask_BS,
        loss_agg_mode=modes[config.aggregation],
        config=actor,
        rollout_is_weights=weights_BS,
    )
    gradients = torch.autograd.grad(loss, (embedding_VH, output_VH))
    assert_equal(ours(trainer, config, with_old=True), loss, gradients)


@needs_verl
def test_advantages_are_verls() -> None:
    from verl.trainer.ppo import core_algos  # pyright: ignore

    rewards_PG = torch.rand(5, 8, generator=torch.Generator().manual_seed(1))
    for scale in ("standard_deviation", "none"):
        theirs, _ = core_algos.compute_grpo_outcome_advantage(
            rewards_PG.reshape(-1, 1),
            torch.ones(40, 1),
            torch.arange(5).repeat_interleave(8).numpy(),
            norm_adv_by_std_in_grpo=scale == "standard_deviation",
        )
        assert torch.allclose(group_advantages(rewards_PG, scale=scale), theirs.view(5, 8), atol=1e-6)


@needs_liger
@pytest.mark.parametrize("changes", CASES)
@pytest.mark.parametrize("with_old", [True, False])
def test_loss_and_gradient_are_ligers(trainer: Trainer, changes: dict[str, Any], with_old: bool) -> None:
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss  # pyright: ignore

    config = PolicyLossConfig.model_validate(changes)
    padded = pad(config)
    embedding_VH, output_VH = parameters()
    logp_VV = torch.log_softmax(embedding_VH @ output_VH.T, dim=-1).detach()
    old_BS = padded.old_BS if with_old else logp_VV[padded.previous_BS, padded.ids_BS]
    loss_fn = LigerFusedLinearGRPOLoss(
        beta=0.0,
        compiled=False,
        use_ref_model=False,
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        loss_type={"token_mean": "dapo", "sequence_mean": "grpo", "constant": "dr_grpo"}[config.aggregation],
        max_completion_length=LONGEST,
    )
    loss, _ = loss_fn(
        embedding_VH[padded.previous_BS],
        output_VH,
        padded.ids_BS,
        padded.mask_BS,
        padded.advantage_B,
        old_per_token_logps=padded.old_BS if with_old else None,
        vllm_is_ratio=importance(padded, config, old_BS),
    )
    gradients = torch.autograd.grad(loss, (embedding_VH, output_VH))
    assert_equal(ours(trainer, config, with_old=with_old), loss, gradients)


@needs_trl
@pytest.mark.parametrize("changes", CASES[:3])
def test_loss_and_gradient_are_those_of_trls_trainer(
    trainer: Trainer, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both through one whole transformer: TRL with prompts left-padded, ours one response a row."""
    del trainer  # its process group is what the vocabulary-parallel loss asks for
    monkeypatch.setenv("WANDB_DISABLED", "true")
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # pyright: ignore

    from tests.generate.making import model, tokenizer

    config = PolicyLossConfig.model_validate({**changes, "importance_cap": None})
    policy = model(5, scale=1.0)
    arguments: Any = GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to=[],
        beta=0.0,
        epsilon=config.clip_low,
        epsilon_high=config.clip_high,
        loss_type={"token_mean": "dapo", "sequence_mean": "grpo", "constant": "dr_grpo"}[config.aggregation],
        max_completion_length=LONGEST,
        per_device_train_batch_size=2,
        num_generations=2,
    )
    theirs: Any = GRPOTrainer(
        policy,
        lambda completions, **_: [0.0 for _ in completions],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "a"}] * 2),
        processing_class=tokenizer(),
    )
    theirs.current_gradient_accumulation_steps = 1
    limit = len(tokenizer())
    groups = [
        [
            rollout._replace(
                completion=rollout.completion._replace(
                    prompt_ids=tuple(token % limit for token in rollout.completion.prompt_ids),
                    token_ids=tuple(token % limit for token in rollout.completion.token_ids),
                )
            )
            for rollout in group
        ]
        for group in make_groups(1)
    ]
    trained = select_trained(groups, config)
    prompts = [rollout.completion.prompt_ids for rollout, _ in trained]
    answers = [rollout.completion.token_ids for rollout, _ in trained]
    widest = max(map(len, prompts))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (widest - len(ids)) + list(ids) for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (widest - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([list(ids) + [0] * (LONGEST - len(ids)) for ids in answers]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (LONGEST - len(ids)) for ids in answers]),
        "advantages": torch.tensor([advantage for _, advantage in trained]),
        "num_items_in_batch": torch.tensor(float(sum(map(len, answers)))),
    }
    theirs.model.train()
    their_loss = theirs._compute_loss(policy, inputs)
    names = [name for name, _ in policy.named_parameters()]
    their_gradients = torch.autograd.grad(their_loss, list(policy.parameters()))
    mine = _through_the_model(policy, trained, config)
    our_gradients = torch.autograd.grad(mine, list(policy.parameters()))
    assert float(mine.detach()) == pytest.approx(float(their_loss.detach()), abs=1e-6)
    for name, own, their in zip(names, our_gradients, their_gradients, strict=True):
        assert torch.allclose(own, their, atol=3e-6), (name, float((own - their).abs().max()))
    assert max(float(gradient.abs().max()) for gradient in our_gradients) > 1e-3


def _through_the_model(policy: Any, trained: list[Any], config: PolicyLossConfig) -> Tensor:
    tokens = sum(len(rollout.completion.token_ids) for rollout, _ in trained)
    denominator = {"token_mean": tokens, "sequence_mean": len(trained), "constant": len(trained) * LONGEST}
    total = torch.zeros(())
    for rollout, advantage in trained:
        done = rollout.completion
        weight = token_weight(
            config.aggregation, length=len(done.token_ids), denominator=denominator[config.aggregation]
        )
        response = TrainedResponse(done.prompt_ids, done.token_ids, done.logprobs, advantage, weight)
        batch: Batch = make_batches([[response]], 1)[0]
        logits_BSV = policy(batch.tokens_BS).logits
        total = total + policy_objective(logits_BSV, batch, config, temperature=1.0, vocab_size=logits_BSV.size(-1))[0]
    return total
