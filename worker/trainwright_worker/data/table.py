"""What a reader returns: all samples of a dataset, unscaled; those of small data in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from trainwright_worker.batch import Batch
from trainwright_worker.data.origin import Origins

LARGEST: Final = float(np.finfo(np.float32).max)
"""The largest number that a model can be shown; what is larger would be infinite to it."""


class Reading(Enum):
    """What makes reading a batch take its time."""

    INSTANT = "instant"  # nothing: a thread of its own would cost more
    DECODING = "decoding"
    NETWORK = "network"


class Split(Protocol):
    """A part of the data with random access. It may lie in memory, or be read from a disk or S3 as it is asked for."""

    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch; the longest of sequences."""

    @property
    def reading(self) -> "Reading":
        """What makes reading take its time."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` ([k] int64) as a batch.

        Args:
            indices: Which samples.
            epoch: The epoch they are trained in; None if they are not trained on. Augmentation is a function of seed, epoch
                and index, so that any rank, thread or restart gets the same.
        """


@dataclass(frozen=True)
class Samples:
    """Inputs and their targets.

    Attributes:
        inputs: float32, [samples, features] or [samples, channels, height, width]; float64 where they were read from a table
            and are not scaled yet.
        targets: int64 class indices [samples], or float32 values [samples, 1]; float64 as above.
        features: Name of each feature, where they have names.
        origins: The file and the row of each sample, where they were read from files of rows.
        units: Columns of times, with the types that they have in the data; they are read in the unit of the first.
    """

    inputs: Tensor
    targets: Tensor
    features: tuple[str, ...] | None = None
    origins: Origins | None = None
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def select(self, indices: Tensor) -> "Samples":
        """Return the samples at `indices` ([k] int64), copied."""
        return replace(
            self,
            inputs=self.inputs.index_select(0, indices),
            targets=self.targets.index_select(0, indices),
            origins=None if self.origins is None else self.origins.select(indices),
        )

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the samples at `indices` ([k] int64) as a batch."""
        return Batch.of(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def reading(self) -> Reading:
        """What makes reading take its time."""
        return Reading.INSTANT

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


class Part(Protocol):
    """Samples as they were read, of which a part can be chosen."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def select(self, indices: Tensor) -> "Part":
        """Return the samples at `indices` ([k] int64)."""


@dataclass(frozen=True)
class Table:
    """A dataset as read.

    Attributes:
        samples: The samples to split, or to train on where the others have files of their own.
        classes: Name of each class in the order of its index; None if the targets are no classes.
        test: Samples of the dataset's own test file.
        validation: Samples of the dataset's own validation file.
        ordered: Whether the samples are parts of one whole, whose end is held out rather than a random share.
        notes: What a person should know of the data although it can be trained on.
    """

    samples: Part
    classes: tuple[str, ...] | None
    test: Part | None = None
    validation: Part | None = None
    ordered: bool = False
    notes: tuple[str, ...] = ()
