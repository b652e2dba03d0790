"""The interface of tasks, for preflight, training and results."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.measures import Measure
from trainwright_worker.tasks.own_loss import own_loss

Row = dict[str, Any]
"""The prediction for one sample: `target` if it is known, `prediction`, and other entries of the task."""


class Task(ABC):
    """The task that the model of a job learns.

    Attributes:
        spec: The job.
    """

    def __init__(self, spec: TrainingJobSpec) -> None:
        self.spec = spec

    def facts(self, dataset: Dataset) -> Facts:
        """Return the facts about the data that determine a model's inputs and outputs."""
        tokenizer = dataset.tokenizer
        vocabulary, padding = (None, None) if tokenizer is None else (tokenizer.size, tokenizer.padding)
        return Facts(dataset.splits.train.shape, self.count_outputs(dataset), vocabulary, padding)

    @abstractmethod
    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of outputs that a model needs."""

    @abstractmethod
    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:
        """Return the assumed number of outputs for data that is not available, and a few words about the assumption.

        Args:
            vocabulary: Size of the vocabulary, if the data are texts.
        """

    @abstractmethod
    def named_loss(self, facts: Facts) -> Loss:
        """Return the loss of the spec, or the default one, that training minimizes."""

    def named_evaluation_loss(self, facts: Facts) -> Loss:
        """Return the same loss without terms that are only for training."""
        return self.named_loss(facts)

    @abstractmethod
    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:
        """Return the metrics of evaluations in addition to the loss.

        Args:
            facts: Input shape, number of outputs and vocabulary size of the data.
            deviation: Standard deviation of each target of a regression, in its units.
            device: Device of the outputs.
        """

    def derive(self, figures: dict[str, float]) -> dict[str, float]:  # noqa: ARG002 - most tasks have none
        """Return metrics that are computed from measured ones."""
        return {}

    @abstractmethod
    def example(self, facts: Facts, samples: int) -> Batch:
        """Return a batch with the shape of the data and arbitrary values."""

    def example_loss(self, outputs: Tensor, batch: Batch, facts: Facts) -> Tensor:
        """Return a loss for an example batch, whose backward pass costs as much as in training."""
        return self.loss(facts).total(outputs, batch)

    def describe(self, batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:
        """Return predictions in a readable form.

        Args:
            batch: The samples.
            outputs: The model's outputs for them (float32, CPU).
            dataset: The data, for names of classes and units.
            known: Whether the batch has real targets.
        """
        raise NotImplementedError(f"task {self.spec.task} does not predict samples")

    def check(self, facts: Facts) -> None:  # noqa: B027 - most tasks have nothing to check
        """Check the spec against the data before training.

        Raises:
            UserError: The spec requests something that the data does not allow.
        """

    def preload(self) -> None:  # noqa: B027 - most tasks need nothing
        """Import the libraries of the metrics in the agent, so that forked ranks inherit them."""

    # -- common to all tasks -----------------------------------------------------------------------------------------

    def loss(self, facts: Facts) -> Loss:
        """Return the loss that training minimizes."""
        return self._own_loss or self.named_loss(facts)

    def evaluation_loss(self, facts: Facts) -> Loss:
        """Return the loss of evaluations."""
        return self._own_loss or self.named_evaluation_loss(facts)

    @cached_property
    def _own_loss(self) -> Loss | None:
        loss = self.spec.loss
        return None if loss is None or loss.function is None else own_loss(loss)

    @property
    def wanted_metrics(self) -> list[MetricName]:
        """The metrics that the spec requests for evaluations or early stopping."""
        stopping = self.spec.training.early_stopping
        named = [*(self.spec.evaluation.metrics or ()), *((stopping.metric,) if stopping is not None else ())]
        return list(dict.fromkeys(named))

    @property
    def label_smoothing(self) -> float:
        """Fraction of each target that is distributed over all classes in training."""
        return (self.spec.loss.label_smoothing if self.spec.loss is not None else None) or 0.0

    def known_outputs(self, facts: Facts) -> int | None:
        """Return the number of outputs that stand for a class, to exclude additional outputs; None to use all outputs.

        Additional outputs must only be excluded with label smoothing, which would otherwise give them probability.
        Without it, training soon makes them unlikely, and not excluding them saves a copy of the outputs.
        """
        return facts.outputs if self.label_smoothing else None

    def report(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the metrics to report: the standard ones of the task, and the requested ones."""
        hidden = self.spec.traits.optional - set(self.wanted_metrics)
        return {str(name): value for name, value in {**figures, **self.derive(figures)}.items() if name not in hidden}


def example_inputs(facts: Facts, samples: int) -> Tensor:
    """Return inputs of the data's shape and type."""
    return torch.empty(samples, *facts.shape, dtype=torch.int64 if facts.vocabulary is not None else torch.float32)


def example_of_classes(facts: Facts, samples: int, *shape: int) -> Batch:
    """Return a batch with classes as targets, one per sample or (with `shape`) per position."""
    return Batch.of(example_inputs(facts, samples), torch.empty(samples, *shape, dtype=torch.int64))


def short(value: float) -> float | None:
    """Return a float32 value with its 7 significant digits; None if it is not finite, which JSON cannot represent."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def needs_more_classes(name: MetricName, task: Task, classes: int) -> UserError:
    """Return the error for a metric that needs more classes."""
    named = name in (task.spec.evaluation.metrics or ())
    field = "spec.evaluation.metrics" if named else "spec.training.earlyStopping.metric"
    return UserError(f"{field}: {name}, but the data has only {classes} classes", "choose another metric")
