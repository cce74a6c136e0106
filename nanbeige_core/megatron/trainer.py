"""The training loop's one step, over Megatron's model, DDP, distributed optimizer and pipeline schedules.

Every stage that trains (pretraining, SFT, DPD, RL) uses this class; what differs is the batches and the loss.

    global loss = sum over data-parallel ranks and micro-batches of what the loss function returns

Nothing is averaged anywhere: the caller divides by global denominators it knows before the step, so a loss does not
depend on how the batch was cut. Legend: B sequence, S position, V vocabulary, _tp = local shard.
"""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor

from nanbeige_core.contract import Job, Runtime
from nanbeige_core.megatron import convert, device, parallel, resume, weights
from nanbeige_core.megatron.batch import Batch
from nanbeige_core.megatron.chunked_head import HiddenLoss
from nanbeige_core.megatron.model import (
    build_chunks,
    forward_hidden,
    forward_logits,
    holds_output_layer,
    initialize_weights,
)
from nanbeige_core.megatron.optimizer import build_optimizer
from nanbeige_core.megatron.passes import ForwardStep, run_schedule
from nanbeige_core.megatron.schedule import LrSchedule, attach_schedule
from nanbeige_core.megatron.step_metrics import StepMetrics
from nanbeige_core.megatron.vocab_parallel import LossFn, mask_padding, vocab_parallel_log_probs
from nanbeige_core.recipe.configs.base import ModelConfig, OptimizerConfig

device.preload()  # here, so that whoever imports this module before forking ranks imports Megatron once

SAMPLES, TOKENS = "trainer/samples", "trainer/tokens"
"""Names under which a step's size travels with its metrics."""


class StepStats(NamedTuple):
    """What one optimizer step did; equal on every rank."""

    loss: float
    grad_norm: float
    lr: float
    metrics: dict[str, float]


class Trainer:
    """One model with its optimizer and schedule, in the parallel layout of a Runtime.

    Every public method that touches weights is collective: all ranks must call it.
    """

    def __init__(
        self,
        *,
        model: ModelConfig,
        vocab_size: int,
        optimizer: OptimizerConfig,
        schedule: LrSchedule,
        runtime: Runtime,
        seed: int,
    ) -> None:
        parallel.initialize(runtime, seed=seed)
        self.config, self.vocab_size, self.schedule, self.runtime, self.seed = (
            model,
            vocab_size,
            schedule,
            runtime,
            seed,
        )
        self.data_rank: int = dist.get_rank(parallel.data_group())
        self.data_size: int = dist.get_world_size(parallel.data_group())
        self.step = 0
        self.samples = 0
        self.tokens = 0
        chunks = build_chunks(model, vocab_size=vocab_size, runtime=runtime)
        initialize_weights(chunks, model, seed=seed)
        built = build_optimizer(chunks, model, optimizer, schedule)
        self.model, self.optimizer = built.model, built.optimizer
        self.scheduler = attach_schedule(self.optimizer, schedule, weight_decay=optimizer.weight_decay)
        self.metrics: StepMetrics | None = None

    def record_steps(self, job: Job, *, part: str = "") -> None:
        """Write every step's numbers to the sinks of the job's runtime, until the weights are saved.

        `part` names a half of a stage whose steps count from one again.
        """
        self.metrics = StepMetrics.open(job, self.config, self.vocab_size, part=part)

    @classmethod
    def open(
        cls,
        *,
        model: ModelConfig,
        vocab_size: int,
        optimizer: OptimizerConfig,
        schedule: LrSchedule,
        runtime: Runtime,
        seed: int,
        weights: Path | None = None,
    ) -> Self:
        """Build a trainer; `weights` is a Checkpoint's weights/ directory (weights only: optimizer and rate are new).

        Without `weights` the model starts from `seed`, the same in every layout. Raises parallel.LayoutError when the
        layout does not fit the model or the ranks.
        """
        trainer = cls(
            model=model, vocab_size=vocab_size, optimizer=optimizer, schedule=schedule, runtime=runtime, seed=seed
        )
        if weights is not None:
            trainer.load_weights(weights)
        return trainer

    def load_weights(self, directory: Path) -> None:
        """Replace the weights, leaving optimizer moments and schedule as they are."""
        weights.load_weights(self.model.module, directory)
        self.optimizer.reload_model_params()

    def train_step(self, micro_batches: Sequence[Batch], loss: LossFn | HiddenLoss) -> StepStats:
        """Take one optimizer step on the summed loss of all micro-batches of all data-parallel ranks.

        `micro_batches` are this data-parallel rank's own (the same number on each). Metrics are summed likewise and
        must have the same names everywhere. Raises FloatingPointError, before any weight changes, when the loss or
        the gradient norm is not finite.
        """
        started = time.perf_counter()
        for part in self.model.parts:
            part.train()
            part.zero_grad_buffer()
        self.optimizer.zero_grad()
        stored = self._run_schedule(micro_batches, self._loss_step(loss), forward_only=False)
        totals = self._sum_everywhere(stored, micro_batches)
        samples, tokens, summed_loss = int(totals.pop(SAMPLES)), int(totals.pop(TOKENS)), totals.pop("loss")
        if not math.isfinite(summed_loss):
            raise FloatingPointError(
                f"loss is {summed_loss} at step {self.step + 1} (rate {self.rate:.3g}), a finite number was expected. "
                "No weight was changed. Lower the peak learning rate or look at this step's batch."
            )
        self.scheduler.step(increment={"steps": 1, "samples": samples, "tokens": tokens}[self.schedule.unit])
        _, grad_norm, _ = self.optimizer.step()
        self.step += 1
        self.samples += samples
        self.tokens += tokens
        if self.metrics is not None:
            values = {"loss": summed_loss, "learning_rate": self.rate, "gradient_norm": float(grad_norm), **totals}
            self.metrics.write(
                self.step,
                tokens=tokens,
                window=micro_batches[0].tokens_BS.size(1),
                seconds=time.perf_counter() - started,
                values=values,
            )
        return StepStats(summed_loss, float(grad_norm), self.rate, totals)

    @property
    def rate(self) -> float:
        """Return the learning rate as the optimizer's parameter groups hold it."""
        return float(self.optimizer.param_groups[0]["lr"])

    def evaluate(self, micro_batches: Sequence[Batch], loss: LossFn | HiddenLoss) -> dict[str, float]:
        """Return the sums of `loss` and of the metrics over micro-batches and data-parallel ranks; no gradient.

        Data-parallel ranks may hold different numbers of micro-batches, none included.
        """
        stored: list[dict[str, Tensor]] = []
        if micro_batches:
            stored = self._run_schedule(micro_batches, self._loss_step(loss), forward_only=True)
        local: dict[str, float] = {}
        for entry in stored:
            for name, value in entry.items():
                local[name] = local.get(name, 0.0) + float(value)
        gathered: list[Any] = [None] * self.data_size
        dist.all_gather_object(gathered, local, group=parallel.data_group())
        totals: dict[str, float] = {}
        for part in gathered:
            for name, value in part.items():
                totals[name] = totals.get(name, 0.0) + value
        return self._from_last_stage(totals)

    def log_probs(self, micro_batches: Sequence[Batch], *, temperature: float = 1.0) -> list[Tensor]:
        """Return the fp32 log-probability of each label, [B, S] per micro-batch, on every model-parallel rank."""

        def keep(logits_BSV_tp: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            scaled = logits_BSV_tp if temperature == 1.0 else logits_BSV_tp.float() / temperature
            logp_BS = vocab_parallel_log_probs(scaled, batch.labels_BS, self.vocab_size)
            return logp_BS.sum(), {"logp": logp_BS}

        stored = self._run_schedule(micro_batches, self._loss_step(keep), forward_only=True)
        if self.runtime.pipeline_parallel == 1:
            return [entry["logp"] for entry in stored]
        last = dist.get_global_rank(parallel.pipeline_group(), self.runtime.pipeline_parallel - 1)
        received: list[Tensor] = []
        for number, batch in enumerate(micro_batches):
            ours = parallel.is_last_stage()
            logp_BS = (
                stored[number]["logp"].contiguous()
                if ours
                else torch.empty(batch.tokens_BS.shape, device=device.device())
            )
            dist.broadcast(logp_BS, src=last, group=parallel.pipeline_group())
            received.append(logp_BS)
        return received

    def hf_state_dict(self) -> dict[str, Tensor]:
        """Return the full weights under Hugging Face Llama names, vocabulary unpadded, on every rank.

        Collective over the model-parallel group. Tensors may share memory with the live weights at one rank: copy
        before the next step if they are kept.
        """
        full = weights.gather_weights(self.model.module)
        return convert.megatron_to_hf(full, self.config, vocab_size=self.vocab_size)

    def save(
        self,
        directory: Path,
        *,
        tokenizer_fingerprint: str,
        stage: str,
        tokens: int = 0,
        history: Sequence[dict[str, Any]] = (),
        extra: dict[str, Any] | None = None,
        with_optimizer: bool = False,
    ) -> None:
        """Write a Checkpoint artifact's files: weights/, model.json, state.json (and optimizer/ when asked)."""
        resume.save_checkpoint(
            self,
            directory,
            tokenizer_fingerprint=tokenizer_fingerprint,
            state={"stage": stage, "tokens": tokens, "history": list(history), **(extra or {})},
            with_optimizer=with_optimizer,
        )
        if self.metrics is not None:
            self.metrics.close()
            self.metrics = None

    def save_resume(self, directory: Path, extra: dict[str, Any]) -> None:
        """Write a complete resume point: weights, optimizer, schedule, random state, step and JSON-able `extra`.

        Atomic: an interrupted write is ignored by `load_resume`. The two newest complete points are kept.
        """
        resume.save_resume(self, directory, extra)

    def load_resume(self, directory: Path) -> dict[str, Any] | None:
        """Restore the newest complete resume point and return its `extra`; None when there is none."""
        return resume.load_resume(self, directory)

    def _loss_step(self, loss: LossFn | HiddenLoss) -> ForwardStep:
        def step(batches: Iterator[Batch], model: Any) -> Any:
            batch = next(batches).to(device.device())
            on_hidden = isinstance(loss, HiddenLoss) and holds_output_layer(model)
            hidden = forward_hidden(model, batch) if on_hidden else None
            output = forward_logits(model, batch) if hidden is None else hidden.hidden_BSH

            def score(output_BSX: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
                if isinstance(loss, HiddenLoss):
                    assert hidden is not None
                    value, metrics = loss.function(hidden._replace(hidden_BSH=output_BSX), batch)
                else:
                    value, metrics = loss(mask_padding(output_BSX, self.vocab_size), batch)
                kept = {name: metric.detach() for name, metric in metrics.items()}
                # zero tokens: Megatron would otherwise divide by their number what the caller has divided already
                nothing = torch.zeros((), dtype=torch.int, device=value.device)
                return value, nothing, {"loss": value.detach(), **kept}

            return output, score

        return step

    def measure(self, micro_batches: Sequence[Batch], loss: HiddenLoss) -> list[dict[str, Tensor]]:
        """Return what `loss` measures on each micro-batch, without gradient; empty off the last pipeline stage."""
        return self._run_schedule(micro_batches, self._loss_step(loss), forward_only=True)

    def _run_schedule(
        self, micro_batches: Sequence[Batch], step: ForwardStep, *, forward_only: bool
    ) -> list[dict[str, Tensor]]:
        return run_schedule(self.model.parts, micro_batches, step, forward_only=forward_only)

    def _sum_everywhere(self, stored: list[dict[str, Tensor]], micro_batches: Sequence[Batch]) -> dict[str, float]:
        """Sum over micro-batches and data-parallel ranks; one all-reduce, and one broadcast along the pipeline."""
        totals: dict[str, float] = {}
        if parallel.is_last_stage():
            names = sorted(stored[0])
            rows = [torch.stack([entry[name].double() for name in names]) for entry in stored]
            sizes = [[batch.tokens_BS.size(0), batch.tokens_BS.numel()] for batch in micro_batches]
            counted = torch.tensor(sizes, dtype=torch.float64, device=device.device()).sum(0)
            vector = torch.cat([counted, torch.stack(rows).sum(0)])
            if self.data_size > 1:
                dist.all_reduce(vector, group=parallel.data_group())
            totals = dict(zip([SAMPLES, TOKENS, *names], vector.tolist(), strict=True))
        return self._from_last_stage(totals)

    def _from_last_stage(self, totals: dict[str, float]) -> dict[str, float]:
        if self.runtime.pipeline_parallel == 1:
            return totals
        last = dist.get_global_rank(parallel.pipeline_group(), self.runtime.pipeline_parallel - 1)
        box: list[Any] = [totals]
        dist.broadcast_object_list(box, src=last, group=parallel.pipeline_group())
        return box[0]
