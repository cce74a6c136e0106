"""AdamW that keeps its step count in the parameter group, as the fused GPU optimizers do.

Megatron's distributed optimizer can save and load only that form; torch's own AdamW keeps one step per parameter.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class GroupStepAdam(torch.optim.Optimizer):
    """AdamW (or Adam with L2) over torch's fused CPU kernel; states `exp_avg` and `exp_avg_sq` per parameter."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
        **ignored: Any,
    ) -> None:
        del ignored  # the fused GPU kernels take more options than one CPU kernel needs
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.adam_w_mode = adam_w_mode

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; count the step even for a group with none."""
        del closure
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + (1 if group["params"] else 0)
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                self._update(group, params)

    def _update(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param]["exp_avg"] = torch.zeros_like(param)
                self.state[param]["exp_avg_sq"] = torch.zeros_like(param)
        kernels: Any = torch
        kernel = kernels._fused_adamw_ if self.adam_w_mode else kernels._fused_adam_
        kernel(
            params,
            [param.grad for param in params],
            [self.state[param]["exp_avg"] for param in params],
            [self.state[param]["exp_avg_sq"] for param in params],
            [],
            [torch.tensor(float(group["step"])) for _ in params],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
