"""Scaling: measured on the training split alone, applied to every split, saved with the state.

Features are scaled per column, images per channel. Targets of a regression are scaled too, so that the default learning
rates fit any unit; the loss is then in squared standard deviations, while mae and predictions are turned back.
"""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from trainwright.api.spec.dataset import Normalize
from trainwright_worker.data.table import Samples


@dataclass(frozen=True)
class Normalization:
    """What is subtracted, and what divided by.

    Attributes:
        mean: Mean per feature or channel; empty to leave the inputs as they are.
        deviation: Standard deviation per feature or channel; 1 where it is 0, since a constant cannot be scaled.
        target_mean: Mean of the targets (regression), else 0.
        target_deviation: Standard deviation of the targets (regression), else 1.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    target_mean: float = 0.0
    target_deviation: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON types; a float survives the way there and back unchanged."""
        return {
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "targetMean": self.target_mean,
            "targetDeviation": self.target_deviation,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        return cls(tuple(raw["mean"]), tuple(raw["deviation"]), raw["targetMean"], raw["targetDeviation"])

    def apply_to_inputs(self, inputs: Tensor) -> Tensor:
        """Return scaled inputs ([samples, features] or [samples, channels, height, width])."""
        if not self.mean:
            return inputs
        shape = (1, -1, *(1,) * (inputs.dim() - 2))
        mean = torch.tensor(self.mean, dtype=torch.float32).reshape(shape)
        return (inputs - mean) / torch.tensor(self.deviation, dtype=torch.float32).reshape(shape)

    def apply(self, samples: Samples | None) -> Samples | None:
        """Return scaled samples, or None for a split that does not exist."""
        if samples is None:
            return None
        targets = samples.targets
        if targets.is_floating_point():
            targets = (targets - self.target_mean) / self.target_deviation
        return Samples(self.apply_to_inputs(samples.inputs), targets)


def measure(train: Samples, spec: Normalize) -> Normalization:
    """Return the scaling that gives `train` zero mean and unit variance, in float64 for the sake of large splits."""
    if spec == Normalize.NONE:
        return Normalization()
    others = [dim for dim in range(train.inputs.dim()) if dim != 1]
    deviation, mean = torch.std_mean(train.inputs.double(), dim=others, correction=0)
    target_mean, target_deviation = 0.0, 1.0
    if train.targets.is_floating_point():
        spread, centre = torch.std_mean(train.targets.double(), correction=0)
        target_mean, target_deviation = float(centre), float(spread) or 1.0
    # A column that never changes says nothing; dividing it by 1 leaves it at 0.
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    return Normalization(tuple(mean.tolist()), tuple(deviation.tolist()), target_mean, target_deviation)
