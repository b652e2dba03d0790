"""LAMB and LARS: optimizers for large batches, which scale the step of every weight by the norm of the weight.

All state is kept per weight, as in torch's own optimizers, so it is saved and sharded in the same way. timm's LAMB
takes the same steps, but keeps the step count in its parameter groups, which checkpoints do not save: a resumed job
would start counting again. timm's LARS would work, but importing timm takes two seconds of CPU time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_TRUST: float = 0.001
"""LARS: trust coefficient, the norm of a step relative to the norm of its weight."""


class Lamb(Optimizer):
    """LAMB (You et al., 2020, arXiv:1904.00962, algorithm 2): Adam with steps scaled to the norm of each weight.

    Groups with `adapts: False` (biases and norms) take plain Adam steps.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "adapts": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, weight.grad, group)

    def _step_weight(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weight], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        count = float(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (state["exp_avg_sq"] / (1 - beta2**count)).sqrt_().add_(group["eps"])
        step = state["exp_avg"] / (1 - beta1**count) / spread
        step.add_(weight, alpha=group["weight_decay"])
        if group["adapts"]:
            step.mul_(_ratio(weight.norm(), step.norm()))
        weight.add_(step, alpha=-group["lr"])


class Lars(Optimizer):
    """LARS (You et al., 2017, arXiv:1708.03888): SGD with gradients scaled to the norm of each weight before momentum.

    Groups with `adapts: False` (biases and norms) take plain SGD steps.
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0, weight_decay: float = 0, *, nesterov: bool = False
    ) -> None:
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "adapts": True,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, weight.grad, group)

    def _step_weight(self, weight: Tensor, step: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        if group["adapts"]:
            size, slope = weight.norm(), step.norm()
            step = step.add(weight, alpha=decay).mul_(_ratio(_TRUST * size, slope + decay * size))
        elif decay:
            step = step.add(weight, alpha=decay)
        if group["momentum"]:
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(step)
            step = step.add(velocity, alpha=group["momentum"]) if group["nesterov"] else velocity
        weight.add_(step, alpha=-group["lr"])


def _ratio(size: Tensor, step: Tensor) -> Tensor:
    """Return size / step, or 1 if either is 0. Does not synchronize with the device."""
    return torch.where((size > 0) & (step > 0), size / step, 1.0)
