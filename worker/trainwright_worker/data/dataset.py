"""From the spec's dataset to what training consumes: read, split, measure, process."""

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
from trainwright_worker.data.overlap import refuse_overlap
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
"""How many samples in memory are looked at at once."""
_FEW: Final = 10
"""So many samples may each have a class of its own: somebody tries something out."""


@dataclass(frozen=True)
class Dataset:
    """The splits of a job's data as the model sees them.

    Attributes:
        splits: Processed samples.
        measured: What was measured on the training split to process them.
    """

    splits: Splits[Split]
    measured: Measured

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Name of each class in the order of its index; None if the targets are no classes."""
        return self.measured.classes

    @property
    def normalization(self) -> Normalization:
        """The scaling that was applied."""
        return self.measured.normalization

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What turned texts into tokens; None if the inputs are no texts."""
        return self.measured.tokenizer

    @property
    def blocks(self) -> Tensor | None:
        """Which training samples are best read together ([samples] int64); None if any may be."""
        train = self.splits.train
        return train.blocks() if isinstance(train, Pictures) else None

    def batch_of_rows(self, rows: list[list[float]]) -> Batch:
        """Return rows of features, scaled as training data was, with zeros for targets."""
        inputs = self.normalization.apply_to_inputs(torch.tensor(rows, dtype=torch.float64))
        return Batch.of(inputs, torch.zeros(len(rows)))

    def batch_of_texts(self, texts: list[str]) -> Batch:
        """Return texts, cut into tokens as training data was, with zeros for targets.

        Raises:
            UserError: The job's data has no texts, or one of these holds no token.
        """
        if self.tokenizer is None:
            raise UserError("spec.prediction.texts: the data of this job has no texts")
        ids = self.tokenizer.encode_samples(texts)
        for index, found in enumerate(ids):
            if not found:
                raise UserError(f"spec.prediction.texts[{index}]: {texts[index]!r} holds no token")
        inputs, mask = pad([torch.tensor(found).numpy() for found in ids], max(map(len, ids)), self.tokenizer.padding)
        return Batch.of(torch.from_numpy(inputs), torch.zeros(len(ids), dtype=torch.int64), torch.from_numpy(mask))


def read(
    spec: TrainingJobSpec, root: str, scratch: Scratch | None = None
) -> tuple[Splits[Part], tuple[str, ...] | None]:
    """Return the unprocessed splits of a job's data and the names of its classes.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data; the ranks of a machine share it.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
    """
    table = read_table(spec, root, scratch or Scratch())
    return split(table, spec.dataset.split, spec.training.seed), table.classes


def read_table(spec: TrainingJobSpec, root: str, scratch: Scratch) -> Table:
    """Return the data of a job as its source has it, once it is seen that something can be learnt from it.

    Args:
        spec: The job.
        root: Folder at which relative paths start.
        scratch: Where to keep what is derived from the data.

    Raises:
        DataError: The data is missing, damaged or not what the spec says.
    """
    table = read_source(spec, root, scratch)
    refuse_overlap(table, spec.dataset)
    for part in (table.samples, table.validation, table.test):
        if isinstance(part, Samples) and not all(some.isfinite().all() for some in torch.split(part.inputs, _ROWS)):
            raise DataError("spec.dataset: the inputs hold values that are not finite numbers")
    if spec.traits.target == Target.CLASS and table.classes is not None:
        table = replace(table, notes=(*table.notes, *_check_classes(table.samples, table.classes)))
    return table


def _check_classes(samples: Part, classes: tuple[str, ...]) -> list[str]:
    """Return what is to be said of the classes, if anything.

    Raises:
        DataError: There is only one, or one for each sample, so that nothing could be learnt.
    """
    if len(classes) == 1:
        raise DataError(f"spec.dataset: all samples are of one class, {classes[0]!r}; there is nothing to tell apart")
    if not isinstance(samples, Samples | Texts | Pictures):
        return []
    single = int((torch.bincount(samples.targets) == 1).sum())
    if single == len(classes) > _FEW:
        raise DataError(
            f"spec.dataset: each of the {single:,} samples has a class of its own, as {classes[0]!r}",
            "set task: regression if the target is a number, or name another target",
        )
    if 2 * single <= len(classes):
        return []
    return [f"spec.dataset: {single:,} of {len(classes):,} classes have one sample; numbers need task: regression"]


def measure(spec: TrainingJobSpec, splits: Splits[Part], classes: tuple[str, ...] | None, root: str) -> Measured:
    """Return what processing needs to know of the training split.

    Args:
        spec: The job.
        splits: The unprocessed splits.
        classes: Names of the classes.
        root: Folder at which relative paths start.

    Raises:
        DataError: The tokenizer's folder holds none.
        UserError: The spec asks for a scaling or a vocabulary that does not fit.
    """
    return replace(splits.train.measure(spec, root), classes=classes)


def process(spec: TrainingJobSpec, splits: Splits[Part], measured: Measured, scratch: Scratch | None = None) -> Dataset:
    """Return the splits as the model sees them.

    Args:
        spec: The job.
        splits: The unprocessed splits; those in memory are changed where they are.
        measured: What was measured on the training split, by this run or the one that it continues.
        scratch: Where to keep what is derived from the data.

    Raises:
        DataError: A text holds no token.
        UserError: A split is too short for a single block.
    """
    place = scratch or Scratch()
    changed = splits.map(lambda part, name: part.process(spec, measured, name, place))
    return Dataset(replace(changed, notes=(*changed.notes, *_say_what_is_cut(changed))), measured)


def _say_what_is_cut(splits: Splits[Split]) -> Iterator[str]:
    """Yield what is to be said of texts that may be longer than a sample may be."""
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        if isinstance(part, Tokens) and part.full:
            yield (
                f"spec.dataset.tokenizer.maxLength: {part.full:,} of {len(part):,} texts of the {name} split have "
                f"{part.max_length:,} tokens or more, and what is beyond them is cut off"
            )


def existing_split(dataset: Dataset, name: str, field: str) -> Split:
    """Return a split that holds samples.

    Args:
        dataset: The data.
        name: train, validation or test.
        field: Field of the spec that asks for it.

    Raises:
        UserError: It holds none.
    """
    splits = dataset.splits
    found = {"train": splits.train, "validation": splits.validation, "test": splits.test}[name]
    if found is None or not len(found):
        raise UserError(
            f"{field}: {name}, but spec.dataset.split.{name} holds out no samples",
            f"hold some out with spec.dataset.split.{name}, or choose another split",
        )
    return found
