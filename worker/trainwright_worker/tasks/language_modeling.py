"""Language modelling: predicts the next token of a text."""

import math
from collections.abc import Sequence
from typing import Final

import torch

from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss, count_tokens, cross_entropy
from trainwright_worker.tasks.measures import Hits, Measure
from trainwright_worker.tasks.task import Task, example_of_classes

_LARGEST_EXPONENT: Final = 709.0
"""Largest x for which e^x is finite in float64."""


class LanguageModeling(Task):
    """Predicts the next token of a text at every position."""

    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of tokens in the vocabulary."""
        return 0 if dataset.tokenizer is None else dataset.tokenizer.size

    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:
        """Return the number of tokens in the vocabulary."""
        return vocabulary or 0, ""

    def named_loss(self, facts: Facts) -> Loss:
        """Return the cross-entropy per predicted token."""
        return cross_entropy(count_tokens, self.label_smoothing, self.known_outputs(facts))

    def named_evaluation_loss(self, facts: Facts) -> Loss:
        """Return the training loss without label smoothing."""
        return cross_entropy(count_tokens, known=self.known_outputs(facts))

    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:  # noqa: ARG002
        """Return the accuracy per token."""
        return [Hits(MetricName.TOKEN_ACCURACY, device)]

    def derive(self, figures: dict[str, float]) -> dict[str, float]:
        """Return the perplexity, which is computed from the loss."""
        return {MetricName.PERPLEXITY: math.exp(min(figures[MetricName.LOSS], _LARGEST_EXPONENT))}

    def example(self, facts: Facts, samples: int) -> Batch:
        """Return texts with a token per position."""
        return example_of_classes(facts, samples, facts.shape[0])
