"""Transcription: predicts a text from a sequence of frames, with connectionist temporal classification (CTC)."""

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
"""The class for "no character". The class of a character is its index among the characters + 1."""
ASSUMED_CHARACTERS: Final = 32
_FIRST_CHARACTER: Final = 0x4E00
"""For the error rate, classes are mapped to the single characters from this code point on."""


class Transcription(Task):
    """Predicts a text from a sequence of frames."""

    def count_outputs(self, dataset: Dataset) -> int:
        """Return the number of characters plus the blank."""
        return len(dataset.classes or ()) + 1

    def assume_outputs(self, vocabulary: int | None) -> tuple[int, str]:  # noqa: ARG002 - frames have no vocabulary
        """Return a typical number of characters."""
        return ASSUMED_CHARACTERS, f"{ASSUMED_CHARACTERS} characters"

    def named_loss(self, facts: Facts) -> Loss:  # noqa: ARG002 - the outputs determine the number of classes
        """Return the CTC loss, per sample and divided by its number of characters."""
        return Loss(_ctc)

    def measures(self, facts: Facts, deviation: Sequence[float], device: torch.device) -> list[Measure]:  # noqa: ARG002
        """Return the character error rate."""
        metric = importlib.import_module("torchmetrics.text").CharErrorRate(sync_on_compute=False)
        return [TorchMetric(MetricName.CHARACTER_ERROR_RATE, metric, _spell_both)]

    def example(self, facts: Facts, samples: int) -> Batch:
        """Return frames with a target per frame."""
        return example_of_classes(facts, samples, facts.shape[0])

    def example_loss(self, outputs: Tensor, batch: Batch, facts: Facts) -> Tensor:  # noqa: ARG002 - only sizes matter
        """Return a loss that needs about as much memory as CTC, which cannot run without real lengths."""
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
        """Import torchmetrics, which takes seconds."""
        importlib.import_module("torchmetrics")


def frame_lengths(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the number of real output frames of each sample ([batch] int64).

    A model may return fewer frames than it gets. Lengths are scaled accordingly and rounded up.
    """
    frames = outputs.shape[1]
    if batch.mask is None:
        return torch.full((len(batch),), frames, device=outputs.device)
    given = batch.mask.shape[1]
    return (batch.mask.sum(1) * frames + given - 1) // given


def decode(outputs: Tensor, batch: Batch) -> list[list[int]]:
    """Return the classes of the likeliest outputs of each sample, with repetitions merged and blanks removed.

    Args:
        outputs: Logits [batch, frames, classes].
        batch: The samples, whose masks mark the real frames.
    """
    lengths = frame_lengths(outputs, batch).tolist()
    found = []
    for row, length in zip(outputs.argmax(2), lengths, strict=True):
        once = torch.unique_consecutive(row[:length])
        found.append(once[once != BLANK].tolist())
    return found


def read_targets(batch: Batch) -> list[list[int]]:
    """Return the target classes of every sample."""
    return [[number for number in row if number != IGNORED] for row in batch.target.tolist()]


def _ctc(outputs: Tensor, batch: Batch) -> Tensor:
    """Return the sum over samples of the CTC loss per character.

    A target that does not fit in its frames counts as 0, because its loss would be infinite.
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
    """Return the predicted and the target text of every sample, for torchmetrics."""
    return [_spell(numbers) for numbers in decode(outputs, batch)], [_spell(numbers) for numbers in read_targets(batch)]


def _spell(numbers: list[int]) -> str:
    return "".join(chr(_FIRST_CHARACTER + number) for number in numbers)
