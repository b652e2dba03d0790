"""What every task answers, for preflight, training and results."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
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

Row = dict[str, Any]
"""What is said of one sample: `target` where it is known, `prediction`, and what else the task knows of it."""


class Task(ABC):
    """What the model of a job learns to do.

    Attributes:
        spec: The job.
    """

    def __init__(self, spec: TrainingJobSpec) -> None:
        self.spec = spec

    def facts(self, dataset: Dataset) -> Facts:
        """Return what a model must know of the data."""
        tokenizer = dataset.tokenizer
        vocabulary, padding = (None, None) if tokenizer is None else (tokenizer.size, tokenizer.padding)
        return Facts(dataset.splits.train.shape, self.count_outputs(dataset), vocabulary, padding)

    @abstractmethod
    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of outputs that a model needs."""

    @abstractmethod
    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:
        """Return the number of outputs of data that nobody has looked at, and what is assumed, in a few words if anything.

        Args:
            vocabulary: Number of tokens, if the data are texts.
        """

    @abstractmethod
    def loss(self, facts: Facts) -> Loss:
        """Return what training minimises."""

    def evaluation_loss(self, facts: Facts) -> Loss:
        """Return the loss as evaluations measure it: without what only helps training."""
        return self.loss(facts)

    @abstractmethod
    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:
        """Return what evaluations measure besides the loss.

        Args:
            facts: What the model knows of the data.
            deviation: Standard deviation of each target of a regression, in its units.
            device: Where outputs lie.
        """

    def derive(self, figures: dict[str, float]) -> dict[str, float]:  # noqa: ARG002 - most tasks have none
        """Return the figures that follow from measured ones."""
        return {}

    @abstractmethod
    def example(self, facts: Facts, samples: int) -> Batch:
        """Return a batch like those of the data, without values that mean anything."""

    def example_loss(self, outputs: Tensor, batch: Batch, facts: Facts) -> Tensor:
        """Return a loss of an example, whose backward pass takes as much memory and arithmetic as that of training."""
        return self.loss(facts).total(outputs, batch)

    def describe(self, batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:
        """Return what a person or another program reads of predictions.

        Args:
            batch: The samples.
            outputs: The model's outputs for them (float32, CPU).
            dataset: The data, which knows names and units.
            known: Whether the targets are true.
        """
        raise NotImplementedError(f"task {self.spec.task} predicts no samples")

    def check(self, facts: Facts) -> None:  # noqa: B027 - most tasks have nothing to check
        """Check, before training, what only the data can tell.

        Raises:
            UserError: The spec asks for something that the data does not allow.
        """

    def preload(self) -> None:  # noqa: B027 - most tasks need nothing
        """Import what measuring needs, once per pod rather than once per process."""

    # -- what is the same for all tasks ------------------------------------------------------------------------------

    @property
    def wanted_metrics(self) -> list[MetricName]:
        """The metrics that the spec asks for, by name or by relying on them."""
        stopping = self.spec.training.early_stopping
        named = [*(self.spec.evaluation.metrics or ()), *((stopping.metric,) if stopping is not None else ())]
        return list(dict.fromkeys(named))

    @property
    def label_smoothing(self) -> float:
        """Share of each target that is spread over all classes in training."""
        return (self.spec.loss.label_smoothing if self.spec.loss is not None else None) or 0.0

    def known_outputs(self, facts: Facts) -> int | None:
        """Return how many outputs of a model count, if it may have more than stand for a class; None for all of them.

        Only label smoothing would push the others towards something. Without it, training soon makes them unlikely, and a
        copy of all outputs that matter is spared.
        """
        return facts.outputs if self.label_smoothing else None

    def report(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the figures to report: those of every job of its kind, and those asked for."""
        hidden = self.spec.traits.optional - set(self.wanted_metrics)
        return {str(name): value for name, value in {**figures, **self.derive(figures)}.items() if name not in hidden}


def example_inputs(facts: Facts, samples: int) -> Tensor:
    """Return inputs of the data's shape and type."""
    return torch.empty(samples, *facts.shape, dtype=torch.int64 if facts.vocabulary is not None else torch.float32)


def example_of_classes(facts: Facts, samples: int, *shape: int) -> Batch:
    """Return a batch whose targets are classes, of samples or of their positions."""
    return Batch.of(example_inputs(facts, samples), torch.empty(samples, *shape, dtype=torch.int64))


def short(value: float) -> float | None:
    """Return the digits of a float32 that mean something; None if it is not finite, which JSON cannot say."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def needs_more_classes(name: MetricName, task: Task, classes: int) -> UserError:
    """Return the error of a metric that so few classes give no meaning."""
    named = name in (task.spec.evaluation.metrics or ())
    field = "spec.evaluation.metrics" if named else "spec.training.earlyStopping.metric"
    return UserError(f"{field}: {name}, but the data has only {classes} classes")
