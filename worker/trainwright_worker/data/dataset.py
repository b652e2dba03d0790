"""From the spec's dataset to what training consumes: read, split, scale."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.job import Task
from trainwright_worker.batch import Batch
from trainwright_worker.data.builtin import read_builtin
from trainwright_worker.data.images import read_cifar10, read_idx
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.splits import Splits, split
from trainwright_worker.data.synthetic import generate
from trainwright_worker.data.table import Samples, Table
from trainwright_worker.data.tabular import read_csv
from trainwright_worker.errors import DataError, UserError


class Split(Protocol):
    """A part of the data with random access. It may lie in memory, or be read from a disk or S3 as it is asked for."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` ([k] int64) as a batch.

        Args:
            indices: Which samples.
            epoch: The epoch they are trained in; None if they are not trained on. Augmentation is a function of seed, epoch
                and index, so that any rank, thread or restart gets the same.
        """


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data.

    Attributes:
        shape: Shape of one input, without the batch: (features,), (channels, height, width), (length,) for tokens,
            (frames, features).
        outputs: Number of outputs that a model needs: classes, targets, or words of the vocabulary.
        vocabulary: Size of the vocabulary if the inputs are token ids.
        padding: Id of the padding token.
    """

    shape: tuple[int, ...]
    outputs: int
    vocabulary: int | None = None
    padding: int | None = None


@dataclass(frozen=True)
class Dataset:
    """The splits of a job's data, scaled.

    Attributes:
        splits: Scaled samples.
        classes: Name of each class in the order of its index; None for regression.
        normalization: The scaling that was applied.
    """

    splits: Splits
    classes: tuple[str, ...] | None
    normalization: Normalization

    @property
    def facts(self) -> Facts:
        """What a model must know of the data."""
        return Facts(tuple(self.splits.train.inputs.shape[1:]), 1 if self.classes is None else len(self.classes))


def read(spec: TrainingJobSpec, root: str) -> tuple[Splits, tuple[str, ...] | None]:
    """Return the unscaled splits of a job's data and the names of its classes.

    Args:
        spec: The job.
        root: Folder at which relative paths start.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
        UserError: The spec asks for a split that does not exist.
    """
    table = _read_table(spec, root)
    if not table.samples.inputs.isfinite().all():
        raise DataError("spec.dataset: the inputs hold values that are not finite numbers")
    splits = split(table, spec.dataset.split, spec.training.seed)
    wanted = None if spec.prediction is None else spec.prediction.split
    if wanted is not None and getattr(splits, wanted) is None:
        raise UserError(f"spec.prediction.split: {wanted}, but spec.dataset.split.{wanted} holds out no samples")
    return splits, table.classes


def scale(splits: Splits, classes: tuple[str, ...] | None, normalization: Normalization) -> Dataset:
    """Return the splits scaled by `normalization`."""
    train = normalization.apply(splits.train) or splits.train
    scaled = Splits(train, normalization.apply(splits.validation), normalization.apply(splits.test))
    return Dataset(scaled, classes, normalization)


def pick(splits: Splits, name: str) -> Samples | None:
    """Return the split called train, validation or test."""
    return {"train": splits.train, "validation": splits.validation, "test": splits.test}[name]


def _read_table(spec: TrainingJobSpec, root: str) -> Table:
    data = spec.dataset
    if data.builtin is not None:
        return read_builtin(data.builtin)
    if data.csv is not None:
        return read_csv(data.csv, root, classify=spec.task == Task.CLASSIFICATION)
    if data.idx is not None:
        return read_idx(data.idx, root)
    if data.cifar10 is not None:
        return read_cifar10(data.cifar10, root)
    if data.synthetic is not None:
        return generate(data.synthetic, spec.training.seed)
    raise UserError("spec.dataset: names no source")
