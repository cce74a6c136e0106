"""The learning rate as a function of training progress (report section 3; recipe section 9).

    warmup   peak * s / warmup                                   for s <= warmup
    stable   peak                                                for s <= total - decay
    decay    floor + c(p) * (peak - floor),  p = (s - (total - decay)) / decay
             linear 1 - p | cosine (1 + cos(pi p)) / 2 | minus_sqrt 1 - sqrt(p)
             exponential  peak * (floor / peak) ** p  (truly geometric)
    after    floor

FG-WSD is one such schedule over all four phases: phases change the data, never the rate. The rate used for a step
is the rate at the count reached when the step is finished, so no step runs at rate zero.
"""

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from nanbeige_core.recipe.configs.base import IdentityConfig

Shape = Literal["constant", "linear", "cosine", "minus_sqrt", "exponential"]


class LrSchedule(IdentityConfig):
    """Warm up, stay, decay; lengths count tokens, samples or optimizer steps (`unit`)."""

    unit: Literal["tokens", "samples", "steps"] = Field(
        default="steps", description="What warmup, total and decay count. ours"
    )
    peak: float = Field(gt=0, description="Highest learning rate.")
    floor: float = Field(default=0.0, ge=0, description="Learning rate at the end of decay.")
    total: int = Field(ge=1, description="Length of the whole schedule, in `unit`.")
    warmup: int = Field(default=0, ge=0, description="Linear rise from zero, in `unit`.")
    decay: int | None = Field(default=None, ge=0, description="Final decay, in `unit`; none = everything after warmup.")
    shape: Shape = Field(default="constant", description="Form of the decay; constant = no decay at all.")

    @model_validator(mode="after")
    def validate_lengths(self) -> Self:
        """Refuse a schedule whose parts do not fit into its total."""
        decay = self.decay or 0
        if self.warmup + decay > self.total:
            raise ValueError(
                f"warmup {self.warmup} + decay {decay} exceed total {self.total} {self.unit}: "
                "the parts of a schedule must fit into it; shorten one of them"
            )
        if self.floor > self.peak:
            raise ValueError(f"floor {self.floor} is above peak {self.peak}: a schedule falls from peak to floor")
        if self.shape == "exponential" and self.floor == 0:
            raise ValueError("an exponential decay never reaches floor 0: give a floor above zero")
        return self

    @property
    def decay_length(self) -> int:
        """Return the length of the decay in `unit`."""
        return self.total - self.warmup if self.decay is None else self.decay

    def rate(self, count: float) -> float:
        """Return the learning rate at `count` finished units."""
        if self.warmup and count <= self.warmup:
            return self.peak * count / self.warmup
        if self.shape == "constant" or count <= self.total - self.decay_length:
            return self.peak
        progress = min((count - (self.total - self.decay_length)) / self.decay_length, 1.0)
        if self.shape == "exponential":
            return self.peak * (self.floor / self.peak) ** progress
        return self.floor + _remaining(self.shape, progress) * (self.peak - self.floor)


def _remaining(shape: Shape, progress: float) -> float:
    if shape == "linear":
        return 1.0 - progress
    if shape == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    return 1.0 - math.sqrt(progress)


def attach_schedule(optimizer: Any, schedule: LrSchedule, *, weight_decay: float) -> Any:
    """Return Megatron's OptimizerParamScheduler for `schedule`.

    Megatron computes linear, cosine and minus_sqrt itself (its WSD style); its "exponential" is 2 * 0.5^p - 1, which
    is not geometric, so for `exponential` the rate comes from `schedule.rate`. Parameter groups carry a `max_lr` that
    beats the scheduler's, also after loading (Megatron-LM #963), so it is written here.
    """
    from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

    class GeometricScheduler(OptimizerParamScheduler):
        def get_lr(self, param_group: dict[str, Any]) -> float:
            del param_group
            return schedule.rate(self.num_steps)

    for group in optimizer.param_groups:
        group["max_lr"], group["min_lr"] = schedule.peak, schedule.floor
    constant = schedule.shape == "constant" or schedule.decay_length == 0
    scheduler_class = GeometricScheduler if schedule.shape == "exponential" else OptimizerParamScheduler
    return scheduler_class(
        optimizer,
        init_lr=0.0,
        max_lr=schedule.peak,
        min_lr=schedule.floor,
        lr_warmup_steps=schedule.warmup,
        # Megatron demands warmup < total even when nothing decays
        lr_decay_steps=max(schedule.total, schedule.warmup + 1),
        lr_decay_style="constant" if constant else "WSD",
        start_wd=weight_decay,
        end_wd=weight_decay,
        wd_incr_steps=schedule.total,
        wd_incr_style="constant",
        use_checkpoint_opt_param_scheduler=False,
        override_opt_param_scheduler=True,
        wsd_decay_steps=None if constant else schedule.decay_length,
        lr_wsd_decay_style=None if constant or schedule.shape == "exponential" else schedule.shape,
    )
