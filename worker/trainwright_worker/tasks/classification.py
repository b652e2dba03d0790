"""Classification: predicts the class of a sample."""

import importlib
import math
import warnings
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec.evaluation import MetricName
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss, cross_entropy
from trainwright_worker.tasks.measures import Hits, Measure, TorchMetric
from trainwright_worker.tasks.task import Row, Task, example_of_classes, needs_more_classes, short

ASSUMED_CLASSES: Final = 2
_TOP: Final = 5


class Classification(Task):
    """Predicts the class of a sample; with the loss bce, each class has an independent probability."""

    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of classes."""
        return len(dataset.classes or ())

    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:  # noqa: ARG002 - for texts too
        """Return the minimum number of classes."""
        return ASSUMED_CLASSES, f"{ASSUMED_CLASSES} classes"

    def named_loss(self, facts: Facts) -> Loss:
        """Return the loss of the spec."""
        return self._make_loss(facts, self.label_smoothing)

    def named_evaluation_loss(self, facts: Facts) -> Loss:
        """Return the training loss without label smoothing."""
        return self._make_loss(facts, 0.0)

    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:  # noqa: ARG002
        """Return accuracy and the requested metrics."""
        wanted = [name for name in self.wanted_metrics if name in self.spec.traits.optional]
        return [Hits(MetricName.ACCURACY, device), *(self._measure(name, facts.outputs, device) for name in wanted)]

    def example(self, facts: Facts, samples: int) -> Batch:
        """Return samples with classes."""
        return example_of_classes(facts, samples)

    def describe(self, batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:
        """Return the likeliest class, and the probability of each class by name."""
        classes = dataset.classes or ()
        rows: list[Row] = []
        for target, shares in zip(batch.target.tolist(), self._probabilities(outputs).tolist(), strict=True):
            row: Row = {"target": classes[target]} if known else {}
            row["prediction"] = classes[shares.index(max(shares))] if all(map(math.isfinite, shares)) else None
            row["probabilities"] = dict(zip(classes, map(short, shares), strict=True))
            rows.append(row)
        return rows

    def check(self, facts: Facts) -> None:
        """Check that there are enough classes for top-5 accuracy.

        Raises:
            UserError: There are not.
        """
        if MetricName.TOP5_ACCURACY in self.wanted_metrics and facts.outputs <= _TOP:
            raise needs_more_classes(MetricName.TOP5_ACCURACY, self, facts.outputs)

    def preload(self) -> None:
        """Import torchmetrics, which takes seconds, if a requested metric needs it."""
        if self.spec.traits.optional & set(self.wanted_metrics):
            importlib.import_module("torchmetrics")

    def _make_loss(self, facts: Facts, smoothing: float) -> Loss:
        if self.spec.loss_name == LossName.BCE:
            return Loss(_binary_cross_entropy)
        return cross_entropy(len, smoothing, self.known_outputs(facts))

    def _probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid() if self.spec.loss_name == LossName.BCE else outputs.softmax(-1)

    def _measure(self, name: MetricName, classes: int, device: torch.device) -> TorchMetric:
        kinds = importlib.import_module("torchmetrics.classification")
        common = {"num_classes": classes, "sync_on_compute": False, "validate_args": False}
        if name == MetricName.AUROC:
            # This metric collects all samples, which could fill the memory of a GPU.
            metric = kinds.MulticlassAUROC(average=None, **common)
            metric.update(torch.zeros(0, classes), torch.zeros(0, dtype=torch.int64))  # A rank may have no samples.
            return Auroc(name, metric, lambda outputs, batch: (self._probabilities(outputs).cpu(), batch.target.cpu()))
        metric = {
            MetricName.TOP5_ACCURACY: lambda: kinds.MulticlassAccuracy(average="micro", top_k=_TOP, **common),
            MetricName.F1: lambda: kinds.MulticlassF1Score(average="macro", **common),
            MetricName.PRECISION: lambda: kinds.MulticlassPrecision(average="macro", **common),
            MetricName.RECALL: lambda: kinds.MulticlassRecall(average="macro", **common),
        }[name]().to(device)
        return TorchMetric(name, metric, lambda outputs, batch: (outputs, batch.target))


class Auroc(TorchMetric):
    """The mean area under the ROC curves of the classes for which the split has both positive and negative samples.

    It is undefined if all samples of the split have the same class.
    """

    def _compute(self) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # torchmetrics warns about classes without a curve, which are excluded below.
            areas = self._metric.compute()
        counts = torch.cat(self._metric.target).bincount(minlength=len(areas))
        defined = areas[(counts > 0) & (counts < counts.sum())]
        return float(defined.mean()) if len(defined) else math.nan


def _binary_cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the sum over samples of the mean over classes of the binary cross-entropy of each class."""
    classes = outputs.shape[1]
    truth = F.one_hot(batch.target, classes).to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, truth, reduction="sum") / classes
