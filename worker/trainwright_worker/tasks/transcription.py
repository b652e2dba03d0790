"""Transcription: a text read from a sequence of frames, by connectionist temporal classification (CTC)."""

import importlib
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.measures import Measure, TorchMetric
from trainwright_worker.tasks.task import Row, Task, example_of_classes

BLANK: Final = 0
"""The class that stands for "no character here"; a character is its place among the classes + 1."""
ASSUMED_CHARACTERS: Final = 32
_FIRST_CHARACTER: Final = 0x4E00
"""Where the error rate is computed, classes become characters from here on, all of them single."""


class Transcription(Task):
    """A text read from a sequence of frames."""

    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of characters, and the blank."""
        return len(dataset.classes or ()) + 1

    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:  # noqa: ARG002 - frames have none
        """Return a usual number of characters."""
        return ASSUMED_CHARACTERS, f"{ASSUMED_CHARACTERS} characters"

    def loss(self, facts: Facts) -> Loss:  # noqa: ARG002 - the outputs say how many classes there are
        """Return CTC: per sample, its loss per character."""
        return Loss(_ctc)

    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:  # noqa: ARG002
        """Return the character error rate."""
        metric = importlib.import_module("torchmetrics.text").CharErrorRate(sync_on_compute=False)
        return [TorchMetric(MetricName.CHARACTER_ERROR_RATE, metric, _spell_both)]

    def example(self, facts: Facts, samples: int) -> Batch:
        """Return frames with a target per frame."""
        return example_of_classes(facts, samples, facts.shape[0])

    def example_loss(self, outputs: Tensor, batch: Batch, facts: Facts) -> Tensor:  # noqa: ARG002 - the size of outputs counts
        """Return what keeps about as much as CTC, which computes with real lengths only."""
        return F.log_softmax(outputs, -1).mean()

    def describe(self, batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:
        """Return the likeliest text."""
        characters = dataset.classes or ()

        def spell(numbers: list[int]) -> str:
            return "".join(characters[number - 1] for number in numbers)

        truth = [spell(numbers) for numbers in read_targets(batch)] if known else []
        return [
            ({"target": truth[index]} if known else {}) | {"prediction": spell(numbers)}
            for index, numbers in enumerate(decode(outputs, batch))
        ]

    def preload(self) -> None:
        """Import torchmetrics; that takes seconds."""
        importlib.import_module("torchmetrics")


def frame_lengths(outputs: Tensor, batch: Batch) -> Tensor:
    """Return how many frames of each sample's outputs are real ([batch] int64).

    A model may give fewer frames than it gets; lengths shrink with them, rounded up.
    """
    frames = outputs.shape[1]
    if batch.mask is None:
        return torch.full((len(batch),), frames, device=outputs.device)
    given = batch.mask.shape[1]
    return (batch.mask.sum(1) * frames + given - 1) // given


def decode(outputs: Tensor, batch: Batch) -> list[list[int]]:
    """Return the classes that the likeliest output of every frame spells: repetitions once, blanks not at all.

    Args:
        outputs: Logits [batch, frames, classes].
        batch: The samples, whose masks say how many frames are real.
    """
    lengths = frame_lengths(outputs, batch).tolist()
    found = []
    for row, length in zip(outputs.argmax(2), lengths, strict=True):
        once = torch.unique_consecutive(row[:length])
        found.append(once[once != BLANK].tolist())
    return found


def read_targets(batch: Batch) -> list[list[int]]:
    """Return the classes of every sample's true text."""
    return [[number for number in row if number != IGNORED] for row in batch.target.tolist()]


def _ctc(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the sum over samples of minus the log of the probability of all ways to spell the target, per character.

    A target that is longer than its frames cannot be spelt; it counts as 0 instead of making the loss infinite.
    """
    lengths = (batch.target != IGNORED).sum(1)
    losses = F.ctc_loss(
        outputs.log_softmax(2).transpose(0, 1),
        batch.target,
        frame_lengths(outputs, batch),
        lengths,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return (losses / lengths.clamp(min=1)).sum()


def _spell_both(outputs: Tensor, batch: Batch) -> tuple[list[str], list[str]]:
    """Return the likeliest text of every sample, and the true one, as torchmetrics compares them."""
    return [_spell(numbers) for numbers in decode(outputs, batch)], [_spell(numbers) for numbers in read_targets(batch)]


def _spell(numbers: list[int]) -> str:
    return "".join(chr(_FIRST_CHARACTER + number) for number in numbers)
