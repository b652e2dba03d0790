"""Regression: predicts one or more numbers per sample."""

import math
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec.evaluation import MetricName
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.measures import Measure, Reducer
from trainwright_worker.tasks.task import Row, Task, example_inputs

_ROUNDING: Final = 1e-12
"""Fraction of a sum of squares that float64 rounding may lose."""


class Regression(Task):
    """Predicts one or more numbers per sample, normalized for training and reported in their units."""

    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of targets."""
        return dataset.splits.train.take(torch.zeros(1, dtype=torch.int64)).target.shape[1]

    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:  # noqa: ARG002 - for texts too
        """Return one target."""
        return 1, ""

    def named_loss(self, facts: Facts) -> Loss:  # noqa: ARG002 - the outputs determine the number of targets
        """Return the loss of the spec: the sum over samples of the mean over targets."""
        name, spec = self.spec.loss_name, self.spec.loss
        delta = (spec.delta if spec is not None else None) or 1.0

        def total(outputs: Tensor, batch: Batch) -> Tensor:
            if name == LossName.L1:
                summed = F.l1_loss(outputs, batch.target, reduction="sum")
            elif name == LossName.HUBER:
                summed = F.huber_loss(outputs, batch.target, reduction="sum", delta=delta)
            else:
                summed = F.mse_loss(outputs, batch.target, reduction="sum")
            targets = batch.target.shape[1]
            return summed if targets == 1 else summed / targets

        return Loss(total)

    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:
        """Return mae, rmse and r2."""
        return [Errors(facts.outputs, deviation, device)]

    def example(self, facts: Facts, samples: int) -> Batch:
        """Return samples with numeric targets."""
        return Batch.of(example_inputs(facts, samples), torch.empty(samples, facts.outputs))

    def describe(self, batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:
        """Return a number per sample, or a list of numbers if there are several targets, in their units."""

        def in_units(values: Tensor) -> list[Any]:
            deviations = dataset.normalization.target_deviation
            rows = [
                [_rounded(value, deviation) for value, deviation in zip(row, cycle(deviations), strict=False)]
                for row in dataset.normalization.targets_in_units(values).tolist()
            ]
            return [row[0] if len(row) == 1 else row for row in rows]

        truth = in_units(batch.target) if known else []
        return [
            ({"target": truth[index]} if known else {}) | {"prediction": value}
            for index, value in enumerate(in_units(outputs))
        ]


def _rounded(value: float, deviation: float) -> float | None:
    """Return a value with the digits that are known of it; None if it is not finite, which JSON cannot represent.

    The model computes in float32, with 7 significant digits, the distance from the mean in deviations.
    """
    if not math.isfinite(value):
        return None
    unit = min(abs(value) or deviation, deviation)
    return round(value, 6 - math.floor(math.log10(unit)))


class Errors:
    """The errors of a regression: mae and rmse in the units of the targets, and r2.

    For several targets, mae and rmse are over all values, and r2 is the mean over targets. r2 is undefined if a target
    is constant in the split.
    """

    def __init__(self, targets: int, deviation: Sequence[float], device: torch.device) -> None:
        """Start with empty sums.

        Args:
            targets: Number of targets.
            deviation: Standard deviation of each target in its units, or one value for all.
            device: Device of the outputs.
        """
        self._deviation = torch.tensor(deviation, dtype=torch.float64).expand(targets)
        self._sums = torch.zeros(5, targets, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        errors, targets = (outputs - batch.target).double(), batch.target.double()
        count = torch.full_like(errors[0], len(errors))
        self._sums += torch.stack(
            [count, errors.abs().sum(0), errors.square().sum(0), targets.sum(0), targets.square().sum(0)]
        )

    def figures(self, group: Reducer) -> dict[str, float]:
        """Return mae, rmse and r2."""
        sums = torch.tensor(group.sum(self._sums.flatten().tolist()), dtype=torch.float64).reshape(self._sums.shape)
        count, absolute, squared, target, squares = sums
        spread = squares - target.square() / count
        explained = torch.where(spread > _ROUNDING * squares, 1 - squared / spread, math.nan)
        return {
            MetricName.MAE: float((absolute / count * self._deviation).mean()),
            MetricName.RMSE: float((squared / count * self._deviation.square()).mean().sqrt()),
            MetricName.R2: float(explained.mean()),
        }
