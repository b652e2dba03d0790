"""Protocols of the data: unprocessed parts, which readers return, and processed splits, which training uses."""

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
"""The largest float32 number; larger inputs would become infinite."""


class Reading(Enum):
    """How expensive reading a batch is, and why."""

    INSTANT = "instant"  # Cheaper than a separate thread.
    DECODING = "decoding"
    NETWORK = "network"


class Split(Protocol):
    """A processed split with random access, in memory or read on demand from a disk or S3."""

    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension; for sequences, with the maximum length."""

    @property
    def reading(self) -> "Reading":
        """How expensive reading is."""

    @property
    def origins(self) -> Origins | None:
        """File and row of each sample; None if unknown."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` ([k] int64) as a batch.

        Args:
            indices: Indices of the samples.
            epoch: The epoch in which they are trained on; None for evaluation. Augmentation depends only on seed, epoch
                and index, so that it is the same in any rank, thread or restart.
        """


class Part(Protocol):
    """Unprocessed samples that can be split."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def select(self, indices: Tensor) -> "Part":
        """Return the samples at `indices` ([k] int64)."""

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:
        """Return the measurements that processing needs, except the classes, if these samples are the training split.

        Args:
            spec: The job.
            root: Folder that relative paths are resolved against.

        Raises:
            DataError: The tokenizer's folder contains no tokenizer.
            UserError: The normalization or the vocabulary size of the spec does not fit the data.
        """

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> Split:
        """Return the processed samples; those in memory are changed in place.

        Args:
            spec: The job.
            measured: Measurements of the training split, made by this run or the run that it resumes.
            name: Name of the split: train, validation or test.
            scratch: Cache of derived data.

        Raises:
            DataError: A text has no tokens.
            UserError: The split is too short for one block.
        """


@dataclass(frozen=True)
class Table:
    """An unprocessed dataset.

    Attributes:
        samples: The samples to split; only for training if there are separate files for the other splits.
        classes: Name of each class in the order of its index; None if the targets are not classes.
        test: Samples of a separate test file.
        validation: Samples of a separate validation file.
        ordered: Whether the samples are consecutive parts of a text, whose end is held out rather than a random part.
        notes: Notes about the data for the user.
    """

    samples: Part
    classes: tuple[str, ...] | None
    test: Part | None = None
    validation: Part | None = None
    ordered: bool = False
    notes: tuple[str, ...] = ()
