"""What evaluations add up: sums that are exact over any number of batches and ranks, and the figures they give.

The figures that every job has are summed here, in float64. Others come from torchmetrics, which takes seconds to import
and is imported only in jobs that ask for them.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.tasks.losses import Loss


class Together(Protocol):
    """What brings together what ranks have added up, each by itself: their group."""

    def sum(self, values: list[float]) -> list[float]:
        """Return the sum over all ranks of each value."""

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the rows of all ranks, one after the other."""


class Alone:
    """A single process that measures for itself."""

    def sum(self, values: list[float]) -> list[float]:
        """Return the values."""
        return values

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows


class Measure(Protocol):
    """Something that is measured on one split."""

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch and the model's outputs (float32) for it."""

    def figures(self, group: Together) -> dict[str, float]:
        """Return the figures over all ranks, which must all call this; NaN for one that is undefined on the split."""


class LossSum:
    """The mean loss."""

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        count = torch.as_tensor(self._loss.count(batch), device=outputs.device).double()
        self._sums += torch.stack([count, self._loss.total(outputs, batch).double()])

    def figures(self, group: Together) -> dict[str, float]:
        """Return the loss."""
        count, loss = group.sum(self._sums.tolist())
        return {MetricName.LOSS: loss / max(count, 1)}


class Hits:
    """How often the likeliest class is the right one: of a sample, or of a token that counts."""

    def __init__(self, name: MetricName, device: torch.device) -> None:
        self._name = name
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        counted = batch.target != IGNORED
        hits = (outputs.argmax(-1) == batch.target) & counted
        self._sums += torch.stack([counted.sum(), hits.sum()])

    def figures(self, group: Together) -> dict[str, float]:
        """Return the share of hits."""
        count, hits = group.sum(self._sums.tolist())
        return {self._name: hits / max(count, 1)}


class TorchMetric:
    """A metric of torchmetrics, whose states our own ranks bring together."""

    def __init__(self, name: MetricName, metric: Any, arguments: Callable[[Tensor, Batch], tuple[Any, Any]]) -> None:
        """Begin.

        Args:
            name: The figure it gives.
            metric: The metric, which must not synchronize by itself.
            arguments: What it is updated with: predictions and targets of a batch.
        """
        self._name = name
        self._metric = metric
        self._arguments = arguments

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        self._metric.update(*self._arguments(outputs, batch))

    def figures(self, group: Together) -> dict[str, float]:
        """Return the figure."""
        for state, value in self._metric.metric_state.items():
            setattr(self._metric, state, _bring_together(value, group))
        return {self._name: self._compute()}

    def _compute(self) -> float:
        return float(self._metric.compute())


def _bring_together(value: Tensor | list[Tensor], group: Together) -> Tensor | list[Tensor]:
    """Return a state of all ranks: sums are summed, collected samples put one after the other."""
    if isinstance(value, list):
        return [group.concatenate(torch.cat(value).cpu())]
    return torch.tensor(group.sum(value.flatten().tolist()), device=value.device).to(value.dtype).reshape(value.shape)
