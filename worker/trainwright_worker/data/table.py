"""What a reader of small data returns: all samples of a dataset, in memory, unscaled."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainwright_worker.batch import Batch
from trainwright_worker.errors import DataError


@dataclass(frozen=True)
class Samples:
    """Inputs and their targets.

    Attributes:
        inputs: float32, [samples, features] or [samples, channels, height, width].
        targets: int64 class indices [samples], or float32 values [samples, 1].
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def select(self, indices: Tensor) -> "Samples":
        """Return the samples at `indices` ([k] int64), copied."""
        return Samples(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the samples at `indices` ([k] int64) as a batch."""
        return Batch(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on `device`."""
        return Samples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Table:
    """A dataset as read.

    Attributes:
        samples: The samples to split, or to train on where `test` has a file of its own.
        classes: Name of each class in the order of its index; None for regression.
        test: Samples of the dataset's own test file.
    """

    samples: Samples
    classes: tuple[str, ...] | None
    test: Samples | None = None


def open_path(path: str, root: str, field: str) -> Path:
    """Return the path of an existing file or folder of the dataset.

    Args:
        path: As the spec gives it; relative paths start at `root`.
        root: The data root of the worker.
        field: Field of the spec that names it, for the error.

    Raises:
        DataError: Nothing is there.
    """
    place = Path(root, path)
    if not place.exists():
        raise DataError(
            f"{field}: {path} does not exist (looked at {place})",
            "mount the volume that holds the data with spec.workers.volumes, or correct the path",
        )
    return place
