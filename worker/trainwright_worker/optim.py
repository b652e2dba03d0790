"""The optimizer, and the learning rate as a function of the step.

The rate is computed, not accumulated: a schedule has no state that a checkpoint would have to hold.
"""

import math
from collections.abc import Iterable

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from trainwright.api.spec import OptimizerSpec, ScheduleSpec
from trainwright.api.spec.optimization import OptimizerName, ScheduleName

DEFAULT_BETAS = (0.9, 0.999)
DEFAULT_EPSILON = 1e-8


def make_optimizer(spec: OptimizerSpec, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """Return the optimizer. Fused kernels update all weights in one call, on CPU as on GPU."""
    weights = list(parameters)
    if spec.name == OptimizerName.SGD:
        return SGD(
            weights,
            lr=spec.learning_rate,
            momentum=spec.momentum or 0,
            nesterov=bool(spec.nesterov),
            weight_decay=spec.weight_decay,
            fused=True,
        )
    betas = DEFAULT_BETAS if spec.betas is None else (spec.betas[0], spec.betas[1])
    kind = Adam if spec.name == OptimizerName.ADAM else AdamW
    return kind(
        weights,
        lr=spec.learning_rate,
        betas=betas,
        eps=spec.epsilon or DEFAULT_EPSILON,
        weight_decay=spec.weight_decay,
        fused=True,
    )


def learning_rate(base: float, spec: ScheduleSpec, step: int, total_steps: int) -> float:
    """Return the learning rate of one step.

    Args:
        base: The full rate.
        spec: The schedule.
        step: Steps done before it, so 0 for the first.
        total_steps: Steps of the whole run.

    Returns:
        The rate: rising linearly to `base` at the last warm-up step, then as the schedule says. Linear and cosine reach
        `finalFraction` of the full rate at the very last step.
    """
    if step < spec.warmup_steps:
        return base * (step + 1) / spec.warmup_steps
    after = step - spec.warmup_steps
    if spec.name == ScheduleName.STEP:
        return base * spec.gamma ** (after // (spec.step_every_steps or 1))
    if spec.name == ScheduleName.CONSTANT:
        return base
    part = min(1.0, after / max(1, total_steps - 1 - spec.warmup_steps))
    fall = part if spec.name == ScheduleName.LINEAR else (1 - math.cos(math.pi * part)) / 2
    return base * (1 - fall * (1 - spec.final_fraction))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Make `rate` the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate
