"""Turns the spec's dataset into the samples of training: read, split, measure, process."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.source import Target
from trainwright_worker.batch import Batch
from trainwright_worker.data.corpus import Texts
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.overlap import check_overlap
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.readers import read_source
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.sequences import Tokens, pad
from trainwright_worker.data.splits import Splits, split
from trainwright_worker.data.table import Part, Split, Table
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.errors import DataError, UserError

_ROWS: Final = 1024
"""Number of samples in memory that are checked at once."""
_FEW: Final = 10
"""Datasets of up to this number of samples may have one class per sample, to allow experiments."""


@dataclass(frozen=True)
class Dataset:
    """The processed splits of a job's data.

    Attributes:
        splits: Processed samples.
        measured: Measurements of the training split that processing uses.
    """

    splits: Splits[Split]
    measured: Measured

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Name of each class in the order of its index; None if the targets are not classes."""
        return self.measured.classes

    @property
    def normalization(self) -> Normalization:
        """The normalization of the data."""
        return self.measured.normalization

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer; None if the inputs are not texts."""
        return self.measured.tokenizer

    @property
    def blocks(self) -> Tensor | None:
        """Groups of training samples that are best read together ([samples] int64); None if order does not matter."""
        train = self.splits.train
        return train.blocks() if isinstance(train, Pictures) else None

    def batch_of_rows(self, rows: list[list[float]]) -> Batch:
        """Return rows of features as a batch, normalized like the training data, with zeros as targets."""
        inputs = self.normalization.apply_to_inputs(torch.tensor(rows, dtype=torch.float64))
        return Batch.of(inputs, torch.zeros(len(rows)))

    def batch_of_texts(self, texts: list[str]) -> Batch:
        """Return texts as a batch, tokenized like the training data, with zeros as targets.

        Raises:
            UserError: The job's data is not text, or one of the texts has no tokens.
        """
        if self.tokenizer is None:
            raise UserError("spec.prediction.texts: the data of this job is not text", "remove it")
        ids = self.tokenizer.encode_samples(texts)
        for index, found in enumerate(ids):
            if not found:
                raise UserError(f"spec.prediction.texts[{index}]: {texts[index]!r} has no tokens")
        inputs, mask = pad([torch.tensor(found).numpy() for found in ids], max(map(len, ids)), self.tokenizer.padding)
        return Batch.of(torch.from_numpy(inputs), torch.zeros(len(ids), dtype=torch.int64), torch.from_numpy(mask))


def read(
    spec: TrainingJobSpec, root: str, scratch: Scratch | None = None
) -> tuple[Splits[Part], tuple[str, ...] | None]:
    """Return the unprocessed splits of a job's data and the names of its classes.

    Args:
        spec: The job.
        root: Folder that relative paths are resolved against.
        scratch: Cache of derived data, which the ranks of a machine share.

    Raises:
        DataError: The data is missing or damaged, or does not match the spec.
    """
    table = read_table(spec, root, scratch or Scratch())
    return split(table, spec.dataset.split, spec.training.seed), table.classes


def read_table(spec: TrainingJobSpec, root: str, scratch: Scratch) -> Table:
    """Return the data of a job as read from its source, after checking that it can be trained on.

    Args:
        spec: The job.
        root: Folder that relative paths are resolved against.
        scratch: Cache of derived data.

    Raises:
        DataError: The data is missing or damaged, or does not match the spec.
    """
    table = read_source(spec, root, scratch)
    check_overlap(table, spec.dataset)
    for part in (table.samples, table.validation, table.test):
        if isinstance(part, Samples) and not all(some.isfinite().all() for some in torch.split(part.inputs, _ROWS)):
            raise DataError("spec.dataset: the inputs contain values that are not finite numbers")
    if spec.traits.target == Target.CLASS and table.classes is not None:
        table = replace(table, notes=(*table.notes, *_check_classes(table.samples, table.classes)))
    return table


def _check_classes(samples: Part, classes: tuple[str, ...]) -> list[str]:
    """Check the classes, and return notes about them.

    Raises:
        DataError: There is only one class, or one per sample, so nothing can be learnt.
    """
    if len(classes) == 1:
        raise DataError(f"spec.dataset: all samples have the same class, {classes[0]!r}, so there is nothing to learn")
    if not isinstance(samples, Samples | Texts | Pictures):
        return []
    single = int((torch.bincount(samples.targets) == 1).sum())
    if single == len(classes) > _FEW:
        raise DataError(
            f"spec.dataset: each of the {single:,} samples has a different class, such as {classes[0]!r}",
            "set task: regression if the target is a number, or name another target",
        )
    if 2 * single <= len(classes):
        return []
    return [f"spec.dataset: {single:,} of {len(classes):,} classes have only one sample; numbers need task: regression"]


def measure(spec: TrainingJobSpec, splits: Splits[Part], classes: tuple[str, ...] | None, root: str) -> Measured:
    """Return the measurements of the training split that processing needs.

    Args:
        spec: The job.
        splits: The unprocessed splits.
        classes: Names of the classes.
        root: Folder that relative paths are resolved against.

    Raises:
        DataError: The tokenizer's folder contains no tokenizer.
        UserError: The normalization or the vocabulary size of the spec does not fit the data.
    """
    return replace(splits.train.measure(spec, root), classes=classes)


def process(spec: TrainingJobSpec, splits: Splits[Part], measured: Measured, scratch: Scratch | None = None) -> Dataset:
    """Return the processed splits.

    Args:
        spec: The job.
        splits: The unprocessed splits; those in memory are changed in place.
        measured: Measurements of the training split, made by this run or the run that it resumes.
        scratch: Cache of derived data.

    Raises:
        DataError: A text has no tokens.
        UserError: A split is too short for one block.
    """
    place = scratch or Scratch()
    changed = splits.map(lambda part, name: part.process(spec, measured, name, place))
    return Dataset(replace(changed, notes=(*changed.notes, *_truncation_notes(changed))), measured)


def _truncation_notes(splits: Splits[Split]) -> Iterator[str]:
    """Yield notes about texts that may be longer than the maximum length."""
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if isinstance(part, Tokens) and part.full:
            yield (
                f"spec.dataset.tokenizer.maxLength: {part.full:,} of {len(part):,} texts of the {name} split have "
                f"{part.max_length:,} tokens or more and are truncated"
            )


def existing_split(dataset: Dataset, name: str, field: str) -> Split:
    """Return a split that is not empty.

    Args:
        dataset: The data.
        name: train, validation or test.
        field: Field of the spec that names the split.

    Raises:
        UserError: The split does not exist or is empty.
    """
    splits = dataset.splits
    found = {"train": splits.train, "validation": splits.validation, "test": splits.test}[name]
    if found is None or not len(found):
        raise UserError(
            f"{field}: {name}, but spec.dataset.split.{name} holds out no samples",
            f"hold some out with spec.dataset.split.{name}, or choose another split",
        )
    return found
