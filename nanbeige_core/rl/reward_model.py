"""Train the pairwise judge: cross-entropy on one verdict token, every pair in both orders (report section 3.3).

It starts from the current checkpoint and learns to prefer real reference answers to the policy's own samples and to
corruptions. Shapes: M verdict positions, V vocabulary, _tp = local shard.
"""

import json
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from nanbeige_core.contract import Job, Outcome
from nanbeige_core.evals.exact_match import encode_fitting
from nanbeige_core.generate.engines import open_engine
from nanbeige_core.generate.protocol import Engine
from nanbeige_core.generate.transformers_engine import TransformersEngine
from nanbeige_core.launch.ranks import barrier, gather_objects, rank, world_size
from nanbeige_core.lineage.ledger import ROW_LEDGER, TRAINED, RowLedger
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.convert import hf_config
from nanbeige_core.megatron.resume_points import ResumePoints
from nanbeige_core.megatron.schedule import LrSchedule
from nanbeige_core.megatron.trainer import Trainer
from nanbeige_core.megatron.vocab_parallel import LossFn, vocab_parallel_log_probs
from nanbeige_core.megatron.weights import read_model_card
from nanbeige_core.recipe.configs.rl import RewardModelConfig
from nanbeige_core.rl.judge import TEMPLATE, VERDICT_FILE, PairwiseJudge, comparison_text, judged_answer, verdict_tokens
from nanbeige_core.rl.judge_pairs import JudgePair, build_pairs, is_validation
from nanbeige_core.rl.packing import TrainedResponse, make_batches, pack_rows
from nanbeige_core.rl.prompts import PromptRow, load_prompts
from nanbeige_core.rl.reward_model_report import build_outcome, judge_pairs

SPLITS = ("sft", "overall", "rl")
"""Splits a judge may learn from; held-out prompts stay unseen, they measure the RL stage."""
NOT_DRAWN = "in the pairs, but drawn for no step"


def run(job: Job) -> Outcome:
    """Build pairs, train the judge, and measure it on prompts it has not seen."""
    config: RewardModelConfig = job.config
    checkpoint = job.inputs["checkpoint"].path
    tokenizer = PreTrainedTokenizerFast.from_pretrained(job.inputs["tokenizer"].path)
    tokens = verdict_tokens(tokenizer)
    rows = [
        row
        for row in load_prompts(job.inputs["problems"].path, splits=SPLITS, domains={"general"}, limit=config.prompts)
        if row.answer.strip()
    ]
    engine = open_engine(checkpoint, job.inputs["tokenizer"].path, job.runtime)
    answers = _policy_answers(job, config, engine, tokenizer, rows)
    pairs = build_pairs(rows, answers, corruptions=config.corruptions, ties=config.ties, seed=config.seed)
    fitting = [pair for pair in pairs if _fits(tokenizer, pair, engine.window)]
    training = [pair for pair in fitting if not is_validation(pair.prompt_id, config.validation_share)]
    validation = [pair for pair in fitting if is_validation(pair.prompt_id, config.validation_share)]
    _require_pairs(config, len(training), len(validation))
    trainer = _open_trainer(job, config)
    trainer.record_steps(job)
    judge = PairwiseJudge(_replica(job, trainer, tokenizer), *tokens)
    before = judge_pairs(judge, validation)
    losses = _train(job, config, trainer, tokenizer, training, tokens)
    judge.engine.update_weights(trainer.hf_state_dict(), trainer.step)
    after = judge_pairs(judge, validation)
    card = read_model_card(checkpoint)
    trainer.save(
        job.work,
        tokenizer_fingerprint=card.tokenizer_fingerprint,
        stage=job.stage,
        history=[{"step": step, "loss": loss} for step, loss in enumerate(losses)],
    )
    if rank() == 0:
        verdict = {"token_a": tokens[0], "token_b": tokens[1], "template": TEMPLATE}
        (job.work / VERDICT_FILE).write_text(json.dumps(verdict, indent=1) + "\n")
        _ledger(config, training).write(job.work / ROW_LEDGER)
    barrier()
    counts = {"prompts": len(rows), "training_pairs": len(training), "dropped_too_long": len(pairs) - len(fitting)}
    return build_outcome(before, after, losses, counts, judge)


def _policy_answers(
    job: Job,
    config: RewardModelConfig,
    engine: Engine,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[PromptRow],
) -> list[list[str]]:
    """Return the current policy's answers to each prompt, prompts split over ranks; none where it does not fit."""
    if config.policy_samples == 0:
        return [[] for _ in rows]
    mine = encode_fitting(
        tokenizer, rows[rank() :: world_size()], window=engine.window, max_new_tokens=config.sampling.max_new_tokens
    )
    drawn = engine.generate(mine.ids, config.sampling, n=config.policy_samples, seed=config.seed)
    local = {
        row.id: [judged_answer(engine.text(item)) for item in group]
        for row, group in zip(mine.rows, drawn, strict=True)
    }
    job.progress(0.2, f"{sum(map(len, local.values()))} policy answers drawn")
    everything = {key: value for part in gather_objects(local) for key, value in part.items()}
    return [everything.get(row.id, []) for row in rows]


def _fits(tokenizer: PreTrainedTokenizerFast, pair: JudgePair, window: int) -> bool:
    text = comparison_text(pair.prompt, pair.better, pair.worse)
    return len(tokenizer.encode(text, add_special_tokens=False)) < window


def _require_pairs(config: RewardModelConfig, training: int, validation: int) -> None:
    if training < config.pairs_per_step or validation == 0:
        raise ValueError(
            f"{training} training and {validation} validation pairs fit the judge's window, expected at least "
            f"pairs_per_step = {config.pairs_per_step} and 1: prompts of domain general with reference answers are too "
            "few or too long. Build more general problems, raise reward_model.corruptions, or lower pairs_per_step."
        )


def _open_trainer(job: Job, config: RewardModelConfig) -> Trainer:
    checkpoint = job.inputs["checkpoint"].path
    card = read_model_card(checkpoint)
    return Trainer.open(
        model=card.model,
        vocab_size=card.vocab_size,
        optimizer=config.optimizer,
        schedule=LrSchedule(
            peak=config.learning_rate,
            total=config.steps,
            warmup=min(config.warmup_steps, config.steps - 1),
            shape="linear",
        ),
        runtime=job.runtime,
        seed=config.seed,
        weights=checkpoint / "weights",
    )


def _replica(job: Job, trainer: Trainer, tokenizer: PreTrainedTokenizerFast) -> TransformersEngine:
    model_json = json.loads((job.inputs["checkpoint"].path / "model.json").read_text())
    state = {name: weight.clone() for name, weight in trainer.hf_state_dict().items()}
    return TransformersEngine(state, hf_config(model_json), tokenizer)


def _train(
    job: Job,
    config: RewardModelConfig,
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[JudgePair],
    tokens: tuple[int, int],
) -> list[float]:
    """Run all steps and return their losses; resumes from the last committed step."""
    points = ResumePoints(job, trainer)
    resumed = points.load()
    losses: list[float] = resumed["losses"] if resumed else []
    loss = _make_loss(trainer, tokens)
    with points.training():
        for step in range(len(losses), config.steps):
            chosen = _chosen(config, len(pairs), step)
            mine = [pairs[index] for index in chosen[trainer.data_rank :: trainer.data_size]]
            weight = 1.0 / (2 * config.pairs_per_step)
            rows = pack_rows(
                [example for pair in mine for example in _examples(tokenizer, pair, tokens, weight)],
                row_tokens=trainer.config.max_positions,
            )
            wanted = -(-len(rows) // trainer.runtime.micro_batch_size)
            stats = trainer.train_step(make_batches(rows, max(1, *gather_objects(wanted), 1)), loss)
            losses.append(stats.loss)
            job.progress(0.2 + 0.7 * (step + 1) / config.steps, f"step {step + 1}/{config.steps} loss {stats.loss:.3f}")
            points.after_step({"losses": losses}, more=step + 1 < config.steps)
    return losses


def _chosen(config: RewardModelConfig, pairs: int, step: int) -> list[int]:
    """Return the pairs of one step; no pair comes twice in a step."""
    return Random(f"{config.seed}:{step}").sample(range(pairs), config.pairs_per_step)


def _ledger(config: RewardModelConfig, pairs: Sequence[JudgePair]) -> RowLedger:
    """Return the steps at which a pair of each prompt was trained on."""
    steps: dict[str, list[int]] = {pair.prompt_id: [] for pair in pairs}
    for step in range(config.steps):
        for prompt_id in {pairs[index].prompt_id for index in _chosen(config, len(pairs), step)}:
            steps[prompt_id].append(step + 1)
    return RowLedger.of((key, TRAINED if taken else NOT_DRAWN, taken) for key, taken in steps.items())


def _examples(
    tokenizer: PreTrainedTokenizerFast, pair: JudgePair, tokens: tuple[int, int], weight: float
) -> list[TrainedResponse]:
    """Return both orders of a pair; `advantage` carries the probability that the verdict is A."""
    texts = [
        (comparison_text(pair.prompt, pair.better, pair.worse), pair.label),
        (comparison_text(pair.prompt, pair.worse, pair.better), 1 - pair.label),
    ]
    return [
        TrainedResponse(tuple(tokenizer.encode(text, add_special_tokens=False)), (tokens[0],), (0.0,), label, weight)
        for text, label in texts
    ]


def _make_loss(trainer: Trainer, tokens: tuple[int, int]) -> LossFn:
    def loss(logits_BSV_tp: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """-[y log p(A) + (1 - y) log p(B)] over the whole vocabulary, so the verdict is also what is said."""
        place_BS = batch.loss_mask_BS > 0
        logits_1MV = logits_BSV_tp[place_BS][None]
        labels_1M = torch.full((1, logits_1MV.shape[1]), tokens[0], dtype=torch.long)
        log_a_1M = vocab_parallel_log_probs(logits_1MV, labels_1M, trainer.vocab_size)
        log_b_1M = vocab_parallel_log_probs(logits_1MV, torch.full_like(labels_1M, tokens[1]), trainer.vocab_size)
        wish_1M = batch.extra["advantage_BS"][place_BS][None]
        weight_1M = batch.extra["weight_BS"][place_BS][None]
        losses_1M = -(wish_1M * log_a_1M + (1 - wish_1M) * log_b_1M)
        # a filler batch has no verdict: its zero must still have a graph for the backward pass
        return (losses_1M * weight_1M).sum() + 0.0 * logits_BSV_tp.sum(), {}

    return loss
