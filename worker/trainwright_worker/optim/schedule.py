"""The learning rate as a function of the step. It is stateless, so checkpoints do not have to save it."""

import math
from typing import Final

from trainwright.api.spec import ScheduleSpec
from trainwright.api.spec.optimization import ScheduleName

_ONE_CYCLE_START: Final = 1 / 25
"""Fraction of the full rate at which a one-cycle schedule starts."""
_ONE_CYCLE_RISE: Final = 0.3
"""Fraction of the steps in which a one-cycle schedule rises, if the spec does not set it."""


def learning_rate(base: float, spec: ScheduleSpec, step: int, total_steps: int) -> float:
    """Return the learning rate of one step.

    Args:
        base: The full rate.
        spec: The schedule.
        step: Index of the step; 0 for the first.
        total_steps: Number of steps of the whole run.

    Returns:
        The learning rate. It rises to `base` at the last warm-up step, linearly or (one-cycle) along a half cosine, and
        then follows the schedule. Linear, cosine and one-cycle reach `finalFraction` of the full rate at the last step.
    """
    one_cycle = spec.name == ScheduleName.ONE_CYCLE
    warmup = spec.warmup_steps or (max(1, round(_ONE_CYCLE_RISE * total_steps)) if one_cycle else 0)
    if step < warmup:
        if not one_cycle:
            return base * (step + 1) / warmup
        rise = _half_cosine(step / (warmup - 1)) if warmup > 1 else 1.0
        return base * (_ONE_CYCLE_START + (1 - _ONE_CYCLE_START) * rise)
    after = step - warmup
    if spec.name == ScheduleName.STEP:
        return base * spec.gamma ** (after // (spec.step_every_steps or 1))
    if spec.name == ScheduleName.CONSTANT:
        return base
    if one_cycle:
        after += 1  # The last step of the rise already has the full rate, so the fall starts with the next step.
    part = min(1.0, after / max(1, total_steps - 1 - warmup + one_cycle))
    fall = part if spec.name == ScheduleName.LINEAR else _half_cosine(part)
    return base * (1 - fall * (1 - spec.final_fraction))


def find_fault(spec: ScheduleSpec, total_steps: int) -> str | None:
    """Return a warning if the schedule does not suit the number of steps; otherwise None."""
    if spec.warmup_steps < max(1, total_steps):
        return None
    return (
        f"spec.schedule.warmupSteps: {spec.warmup_steps:,}, but the run has only {total_steps:,} step(s): the learning rate "
        "rises until the end"
    )


def is_constant(spec: ScheduleSpec) -> bool:
    """Whether every step has the same learning rate."""
    return spec.name == ScheduleName.CONSTANT and spec.warmup_steps == 0


def _half_cosine(part: float) -> float:
    """Return the value of a half cosine that rises from 0 to 1 as `part` does."""
    return (1 - math.cos(math.pi * part)) / 2
