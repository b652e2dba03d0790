"""Accumulators of metrics, with sums that are exact over any number of batches and ranks.

The metrics of every job are summed here, in float64. Others come from torchmetrics, which takes seconds to import and
is imported only in jobs that request them.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.tasks.losses import Loss


class Reducer(Protocol):
    """Combines the sums of all ranks, such as their process group."""

    def sum(self, values: list[float]) -> list[float]:
        """Return the sum of each value over all ranks."""

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the concatenated rows of all ranks."""


class SingleProcess:
    """A single process without other ranks."""

    def sum(self, values: list[float]) -> list[float]:
        """Return the values."""
        return values

    def concatenate(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        return rows


class Measure(Protocol):
    """An accumulator of metrics on one split."""

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch and the model's outputs (float32) for it."""

    def figures(self, group: Reducer) -> dict[str, float]:
        """Return the metrics over all ranks, which must all call this; NaN if undefined on the split."""


class LossSum:
    """The mean loss."""

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch."""
        count = torch.as_tensor(self._loss.count(batch), device=outputs.device).double()
        self._sums += torch.stack([count, self._loss.total(outputs, batch).double()])

    def figures(self, group: Reducer) -> dict[str, float]:
        """Return the loss."""
        count, loss = group.sum(self._sums.tolist())
        return {MetricName.LOSS: loss / max(count, 1)}


class Hits:
    """The accuracy: how often the likeliest class of a sample or token is the target."""

    def __init__(self, name: MetricName, device: torch.device) -> None:
        self._name = name
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch."""
        counted = batch.target != IGNORED
        hits = (outputs.argmax(-1) == batch.target) & counted
        self._sums += torch.stack([counted.sum(), hits.sum()])

    def figures(self, group: Reducer) -> dict[str, float]:
        """Return the fraction of correct predictions."""
        count, hits = group.sum(self._sums.tolist())
        return {self._name: hits / max(count, 1)}


class TorchMetric:
    """A metric of torchmetrics, whose state is reduced over the ranks here."""

    def __init__(self, name: MetricName, metric: Any, arguments: Callable[[Tensor, Batch], tuple[Any, Any]]) -> None:
        """Start with an empty metric.

        Args:
            name: Name of the result.
            metric: The metric, which must not synchronize by itself.
            arguments: Returns the arguments of its update for a batch: predictions and targets.
        """
        self._name = name
        self._metric = metric
        self._arguments = arguments

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Add a batch."""
        self._metric.update(*self._arguments(outputs, batch))

    def figures(self, group: Reducer) -> dict[str, float]:
        """Return the metric."""
        for state, value in self._metric.metric_state.items():
            setattr(self._metric, state, _reduce(value, group))
        return {self._name: self._compute()}

    def _compute(self) -> float:
        return float(self._metric.compute())


def _reduce(value: Tensor | list[Tensor], group: Reducer) -> Tensor | list[Tensor]:
    """Return the state over all ranks: sums are added up, lists of samples are concatenated."""
    if isinstance(value, list):
        return [group.concatenate(torch.cat(value).cpu())]
    return torch.tensor(group.sum(value.flatten().tolist()), device=value.device).to(value.dtype).reshape(value.shape)
