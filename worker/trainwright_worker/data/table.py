"""What readers return and what training consumes, as protocols: parts of the data as they were read, and splits."""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Scratch

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

    @property
    def origins(self) -> Origins | None:
        """The file and the row of each sample; None if samples have none of their own."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` ([k] int64) as a batch.

        Args:
            indices: Which samples.
            epoch: The epoch they are trained in; None if they are not trained on. Augmentation is a function of seed, epoch
                and index, so that any rank, thread or restart gets the same.
        """


class Part(Protocol):
    """Samples as they were read, of which a part can be chosen."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def select(self, indices: Tensor) -> "Part":
        """Return the samples at `indices` ([k] int64)."""

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:
        """Return what processing needs to know of these samples, if they are the training split; without the classes.

        Args:
            spec: The job.
            root: Folder at which relative paths start.

        Raises:
            DataError: The tokenizer's folder holds none.
            UserError: The spec asks for a scaling or a vocabulary that does not fit.
        """

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> Split:
        """Return these samples as the model sees them; those in memory are changed where they are.

        Args:
            spec: The job.
            measured: What was measured on the training split, by this run or the one that it continues.
            name: Which split they are: train, validation or test.
            scratch: Where to keep what is derived from the data.

        Raises:
            DataError: A text holds no token.
            UserError: The split is too short for a single block.
        """


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
