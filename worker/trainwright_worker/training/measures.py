"""What evaluations add up: sums that are exact over any number of batches and ranks, and the figures they give.

The figures that every job has are summed here, in float64. Others come from torchmetrics, which takes seconds to import
and is imported only in jobs that ask for them.
"""

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.evaluation import MetricName
from trainwright.api.spec.job import Task
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.errors import UserError
from trainwright_worker.training.losses import BLANK, Loss, count_targets, frame_lengths, probabilities

_TORCHMETRICS: Final = frozenset(
    {MetricName.TOP5_ACCURACY, MetricName.F1, MetricName.PRECISION, MetricName.RECALL, MetricName.AUROC}
)
_TOP: Final = 5
_ROUNDING: Final = 1e-12
"""What share of a sum of squares float64 may lose."""
_LARGEST_EXPONENT: Final = 709.0
"""Beyond it, e^x is infinite in float64."""
_FIRST_CHARACTER: Final = 0x4E00
"""Classes of a transcription become characters from here on, all of them single and visible."""


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
        """Return the figures over all ranks, which must all call this."""


class LossSum:
    """The mean loss."""

    def __init__(self, loss: Loss, device: torch.device) -> None:
        self._loss = loss
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        count = torch.as_tensor(count_targets(batch), device=outputs.device).double()
        self._sums += torch.stack([count, count * self._loss(outputs, batch).double()])

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
        counted = batch.targets != IGNORED
        hits = (outputs.argmax(-1) == batch.targets) & counted
        self._sums += torch.stack([counted.sum(), hits.sum()])

    def figures(self, group: Together) -> dict[str, float]:
        """Return the share of hits."""
        count, hits = group.sum(self._sums.tolist())
        return {self._name: hits / max(count, 1)}


class Errors:
    """How far a regression is off: mae and rmse in the units of the targets, and the share of their variance explained.

    Of several targets, mae and rmse are over all their values, r2 is the mean of theirs.
    """

    def __init__(self, targets: int, deviation: Sequence[float], device: torch.device) -> None:
        """Begin.

        Args:
            targets: Number of targets.
            deviation: Standard deviation of each in its units, or one for all.
            device: Where outputs lie.
        """
        self._deviation = torch.tensor(deviation, dtype=torch.float64).expand(targets)
        self._sums = torch.zeros(5, targets, dtype=torch.float64, device=device)

    def add(self, outputs: Tensor, batch: Batch) -> None:
        """Take in a batch."""
        errors, targets = (outputs - batch.targets).double(), batch.targets.double()
        count = torch.full_like(errors[0], len(errors))
        self._sums += torch.stack(
            [count, errors.abs().sum(0), errors.square().sum(0), targets.sum(0), targets.square().sum(0)]
        )

    def figures(self, group: Together) -> dict[str, float]:
        """Return mae, rmse and r2."""
        sums = torch.tensor(group.sum(self._sums.flatten().tolist()), dtype=torch.float64).reshape(self._sums.shape)
        count, absolute, squared, target, squares = sums
        spread = squares - target.square() / count
        # Without spread, but for rounding, there is nothing to explain: 0 by convention, as a constant prediction would get.
        explained = torch.where(spread > _ROUNDING * squares, 1 - squared / spread, 0.0)
        return {
            MetricName.MAE: float((absolute / count * self._deviation).mean()),
            MetricName.RMSE: float((squared / count * self._deviation.square()).mean().sqrt()),
            MetricName.R2: float(explained.mean()),
        }


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


class Auroc(TorchMetric):
    """The mean area under the curves of the classes that have one: some samples are of the class, and some are not."""

    def _compute(self) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of the classes that have none: they are left out.
            areas = self._metric.compute()
        counts = torch.cat(self._metric.target).bincount(minlength=len(areas))
        told = areas[(counts > 0) & (counts < counts.sum())]
        # Without a curve there is nothing to tell apart: 0 by convention, as for the other figures.
        return float(told.mean()) if len(told) else 0.0


def _bring_together(value: Tensor | list[Tensor], group: Together) -> Tensor | list[Tensor]:
    """Return a state of all ranks: sums are summed, collected samples put one after the other."""
    if isinstance(value, list):
        return [group.concatenate(torch.cat(value).cpu())]
    return torch.tensor(group.sum(value.flatten().tolist()), device=value.device).to(value.dtype).reshape(value.shape)


def wanted_metrics(spec: TrainingJobSpec) -> list[MetricName]:
    """Return the metrics that the spec asks for, by name or by relying on them."""
    stopping = spec.training.early_stopping
    return [*(spec.evaluation.metrics or ()), *((stopping.metric,) if stopping is not None else ())]


def check_metrics(spec: TrainingJobSpec, classes: int) -> None:
    """Check, before training, that the metrics fit the data.

    Raises:
        UserError: There are too few classes for a top five to mean anything.
    """
    if MetricName.TOP5_ACCURACY in wanted_metrics(spec) and classes <= _TOP:
        named = MetricName.TOP5_ACCURACY in (spec.evaluation.metrics or ())
        field = "spec.evaluation.metrics" if named else "spec.training.earlyStopping.metric"
        raise UserError(f"{field}: top5-accuracy, but the data has only {classes} classes")


def preload(spec: TrainingJobSpec) -> None:
    """Import what measuring will need, in the agent, so that its processes inherit it."""
    if spec.task == Task.TRANSCRIPTION or _TORCHMETRICS & set(wanted_metrics(spec)):
        importlib.import_module("torchmetrics")


def make_measures(
    spec: TrainingJobSpec, loss: Loss, outputs: int, deviation: Sequence[float], device: torch.device
) -> list[Measure]:
    """Return what is measured, the loss first.

    Args:
        spec: The job.
        loss: The loss, as evaluations measure it.
        outputs: Number of the model's outputs.
        deviation: Standard deviation of each of a regression's targets, in its units.
        device: Where outputs lie.
    """
    measures: list[Measure] = [LossSum(loss, device)]
    if spec.task == Task.REGRESSION:
        return [*measures, Errors(outputs, deviation, device)]
    if spec.task == Task.LANGUAGE_MODELING:
        return [*measures, Hits(MetricName.TOKEN_ACCURACY, device)]
    if spec.task == Task.TRANSCRIPTION:
        return [*measures, _character_error_rate()]
    names = [name for name in dict.fromkeys(wanted_metrics(spec)) if name in _TORCHMETRICS]
    named = (_classification(name, spec.loss_name, outputs, device) for name in names)
    return [*measures, Hits(MetricName.ACCURACY, device), *named]


def shown_figures(spec: TrainingJobSpec, figures: dict[str, float]) -> dict[str, float]:
    """Return the figures to report: those of every job of its kind, and those asked for."""
    if spec.task == Task.LANGUAGE_MODELING:
        figures = figures | {MetricName.PERPLEXITY: math.exp(min(figures[MetricName.LOSS], _LARGEST_EXPONENT))}
    hidden = {MetricName.RMSE} - set(wanted_metrics(spec))
    return {str(name): value for name, value in figures.items() if name not in hidden}


def _classification(name: MetricName, loss: LossName, classes: int, device: torch.device) -> TorchMetric:
    kinds = importlib.import_module("torchmetrics.classification")
    common = {"num_classes": classes, "sync_on_compute": False, "validate_args": False}
    if name == MetricName.AUROC:
        # Samples are collected; they would fill a GPU.
        metric = kinds.MulticlassAUROC(average=None, **common)
        metric.update(torch.zeros(0, classes), torch.zeros(0, dtype=torch.int64))  # A rank may have no samples.
        return Auroc(name, metric, lambda outputs, batch: (probabilities(outputs, loss).cpu(), batch.targets.cpu()))
    metric = {
        MetricName.TOP5_ACCURACY: lambda: kinds.MulticlassAccuracy(average="micro", top_k=_TOP, **common),
        MetricName.F1: lambda: kinds.MulticlassF1Score(average="macro", **common),
        MetricName.PRECISION: lambda: kinds.MulticlassPrecision(average="macro", **common),
        MetricName.RECALL: lambda: kinds.MulticlassRecall(average="macro", **common),
    }[name]().to(device)
    return TorchMetric(name, metric, lambda outputs, batch: (outputs, batch.targets))


def _character_error_rate() -> TorchMetric:
    metric = importlib.import_module("torchmetrics.text").CharErrorRate(sync_on_compute=False)
    return TorchMetric(MetricName.CHARACTER_ERROR_RATE, metric, _spell_both)


def _spell_both(outputs: Tensor, batch: Batch) -> tuple[list[str], list[str]]:
    """Return the likeliest text of every sample, and the right one."""
    best, lengths = outputs.argmax(2).tolist(), frame_lengths(outputs, batch).tolist()
    read = [_spell(_collapse(row[:length])) for row, length in zip(best, lengths, strict=True)]
    return read, [_spell([target for target in row if target != IGNORED]) for row in batch.targets.tolist()]


def _collapse(row: list[int]) -> list[int]:
    """Return what frames spell: repetitions once, blanks not at all."""
    return [now for now, before in zip(row, [BLANK, *row], strict=False) if now not in (before, BLANK)]


def _spell(classes: list[int]) -> str:
    return "".join(chr(_FIRST_CHARACTER + number) for number in classes)
