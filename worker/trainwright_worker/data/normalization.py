"""Normalization: measured on the training split only, applied to every split, and saved with the state.

Features are normalized per column, images per channel. The targets of a regression are normalized too, each separately,
so that the default learning rates suit any unit. The loss is then in squared standard deviations, while mae and
predictions are converted back.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.dataset import Normalize
from trainwright_worker.data.pixels import PIXEL_MAXIMUM
from trainwright_worker.data.ragged import Array
from trainwright_worker.errors import UserError

IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION: Final = (0.229, 0.224, 0.225)
_AT_ONCE: Final = 1 << 20
"""Number of elements that are measured at once."""
_ROUNDING: Final = 16 * torch.finfo(torch.float64).eps
"""Deviation, as a fraction of the largest value, up to which a column counts as constant except for rounding."""
_UNNOTICED: Final = 0.1
"""Difference of two normalizations, in deviations, that different samples of the same data may cause."""

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class Normalization:
    """The offsets and divisors of a normalization.

    Attributes:
        mean: Mean per feature or channel; empty if inputs are not normalized.
        deviation: Standard deviation per feature or channel; 1 for constants, which cannot be scaled.
        target_mean: Mean per target of a regression; otherwise a single 0.
        target_deviation: Standard deviation per target of a regression, 1 for constants; otherwise a single 1.
    """

    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    target_mean: tuple[float, ...] = (0.0,)
    target_deviation: tuple[float, ...] = (1.0,)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON types, which preserve floats exactly."""
        return {
            "mean": list(self.mean),
            "deviation": list(self.deviation),
            "targetMean": list(self.target_mean),
            "targetDeviation": list(self.target_deviation),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """Return the normalization that `to_json` wrote; also accepts the single target scale of earlier versions."""
        mean, deviation = (
            tuple(found) if isinstance(found, list) else (found,)
            for found in (raw["targetMean"], raw["targetDeviation"])
        )
        return cls(tuple(raw["mean"]), tuple(raw["deviation"]), mean, deviation)

    def with_targets(self, targets: Tensor) -> Self:
        """Return this normalization with that of the targets added, if they are those of a regression."""
        if not targets.is_floating_point():
            return self
        mean, deviation = _scale(targets, Normalize.STANDARD)
        return replace(self, target_mean=tuple(mean.tolist()), target_deviation=tuple(deviation.tolist()))

    def apply_to_targets(self, targets: Tensor) -> Tensor:
        """Return normalized targets (float32); classes are returned unchanged."""
        if not targets.is_floating_point():
            return targets
        mean, deviation = (
            torch.tensor(part, dtype=torch.float64) for part in (self.target_mean, self.target_deviation)
        )
        return ((targets.double() - mean) / deviation).float()

    def targets_in_units(self, scaled: Tensor) -> Tensor:
        """Return normalized targets or predictions in the units of the data ([samples, targets] float64)."""
        deviation, mean = (
            torch.tensor(part, dtype=torch.float64) for part in (self.target_deviation, self.target_mean)
        )
        return scaled.double() * deviation + mean

    def apply_to_inputs(self, inputs: Tensor) -> Tensor:
        """Normalize inputs [samples, features] or [samples, channels, height, width] in place; return them as float32.

        Inputs from tables stay float64 until here, because times in seconds differ in digits that float32 would drop.
        """
        if not self.mean:
            return inputs.float()
        shape = (1, -1, *(1,) * (inputs.dim() - 2))
        mean, deviation = (
            torch.tensor(part, dtype=inputs.dtype).reshape(shape) for part in (self.mean, self.deviation)
        )
        return inputs.sub_(mean).div_(deviation).float()

    def resembles(self, other: "Normalization") -> bool:
        """Whether two normalizations differ by at most a tenth of a deviation, which hardly affects a model."""
        return _alike(self.mean, self.deviation, other.mean, other.deviation) and _alike(
            self.target_mean, self.target_deviation, other.target_mean, other.target_deviation
        )

    def write_image(self, image: Array, place: Array) -> None:
        """Normalize an image [height, width, channels], and write it to `place` [channels, height, width] float32."""
        place[...] = image.transpose(2, 0, 1)
        if self.mean:
            place -= np.array(self.mean, np.float32)[:, None, None]
            place /= np.array(self.deviation, np.float32)[:, None, None]


def measure_samples(inputs: Tensor, targets: Tensor, spec: Normalize) -> Normalization:
    """Return the normalization of samples in memory, measured in float64 so that large splits are exact.

    Args:
        inputs: Inputs of the training split ([samples, features] or [samples, channels, height, width]).
        targets: Targets of the training split.
        spec: Kind of normalization; per channel for images, otherwise per feature.

    Raises:
        UserError: ImageNet's normalization does not apply to these inputs.
    """
    if spec == Normalize.NONE:
        return Normalization()
    mean, deviation = _scale(inputs, spec)
    return Normalization(tuple(mean.tolist()), tuple(deviation.tolist())).with_targets(targets)


def imagenet(channels: int) -> Normalization:
    """Return ImageNet's normalization of pixels from 0 to 255.

    Raises:
        UserError: The images do not have three channels.
    """
    if channels != len(IMAGENET_MEAN):
        raise UserError(f"spec.dataset.normalize: imagenet, but the images have {channels} channel(s) instead of 3")
    return Normalization(
        tuple(PIXEL_MAXIMUM * mean for mean in IMAGENET_MEAN),
        tuple(PIXEL_MAXIMUM * deviation for deviation in IMAGENET_DEVIATION),
    )


def _alike(mean: Numbers, deviation: Numbers, other_mean: Numbers, other_deviation: Numbers) -> bool:
    if len(mean) != len(other_mean):
        return False
    return all(
        abs(here - there) <= _UNNOTICED * spread and abs(spread - other) <= _UNNOTICED * spread
        for here, spread, there, other in zip(mean, deviation, other_mean, other_deviation, strict=True)
    )


def _scale(inputs: Tensor, spec: Normalize) -> tuple[Tensor, Tensor]:
    """Return the offset and the divisor (float64)."""
    if spec == Normalize.IMAGENET:
        found = imagenet(inputs.shape[1])
        return torch.tensor(found.mean, dtype=torch.float64), torch.tensor(found.deviation, dtype=torch.float64)
    others = [dim for dim in range(inputs.dim()) if dim != 1]
    least, most = inputs.amin(others).double(), inputs.amax(others).double()
    if spec == Normalize.UNIT and len(others) > 1:
        # Map black to 0 even if no image contains it, and use the same divisor for all channels to keep their balance.
        mean, deviation = torch.zeros_like(least), most.max().expand(len(most))
    elif spec == Normalize.UNIT:
        mean, deviation = least, most - least
    else:
        shape = (1, -1, *(1,) * (inputs.dim() - 2))
        # Relative to the minimum, so that the mean of a constant column is exact: summing equal fractions rounds.
        mean = least + _mean_of(inputs, others, lambda part: part - least.reshape(shape))
        deviation = _mean_of(inputs, others, lambda part: (part - mean.reshape(shape)).square()).sqrt()
    # A constant column carries no information; dividing by 1 leaves it at 0.
    constant = deviation <= _ROUNDING * torch.maximum(least.abs(), most.abs())
    return mean, torch.where(constant, torch.ones_like(deviation), deviation)


def _mean_of(inputs: Tensor, dims: list[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of transformed inputs over some dimensions in float64, computed in parts to save memory."""
    parts = torch.split(inputs, max(1, _AT_ONCE * len(inputs) // max(1, inputs.numel())))
    total = torch.stack([change(part.double()).sum(dims) for part in parts]).sum(0)
    return total / max(1, inputs.numel() // inputs.shape[1])
