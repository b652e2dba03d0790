"""Splits the samples into training, validation and test, determined by the seed: the same on all ranks and restarts."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from trainwright.api.spec.dataset import SplitSpec
from trainwright_worker.data.table import Part, Split, Table
from trainwright_worker.errors import DataError

_SHOWN: Final = 5
"""Maximum number of names that a message lists."""

Kind_co = TypeVar("Kind_co", covariant=True)
Other = TypeVar("Other")

_NAMES: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""Names of splits in datasets, in upper or lower case."""


@dataclass(frozen=True)
class Splits(Generic[Kind_co]):
    """The three splits of a dataset, None for absent ones, and notes for the user."""

    train: Kind_co
    validation: Kind_co | None
    test: Kind_co | None
    notes: tuple[str, ...] = ()

    def map(self, change: Callable[[Kind_co, str], Other]) -> "Splits[Other]":
        """Return the splits after applying `change` to each split and its name."""
        return Splits(
            change(self.train, "train"),
            None if self.validation is None else change(self.validation, "validation"),
            None if self.test is None else change(self.test, "test"),
            self.notes,
        )


def find_splits(names: Iterable[str], origin: str) -> dict[str, str]:
    """Return the data's name of each standard split, such as {"train": "Training"}.

    Args:
        names: Names of the parts of the data, which may include other parts.
        origin: Field and name of the data, for messages.

    Raises:
        DataError: Two parts stand for the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        for split, known in _NAMES.items():
            if name.lower() not in known:
                continue
            if split in found:
                raise DataError(
                    f"{origin} has two {split} splits, {found[split]!r} and {name!r}", "rename or remove one of them"
                )
            found[split] = name
    return found


def check_no_other_folders(others: Sequence[str], own: str, origin: str) -> None:
    """Check that there are no other data folders beside that of the training split, since all of them may be classes.

    Args:
        others: Names of the other folders.
        own: The folder of the training split.
        origin: Field and name of the data, for messages.

    Raises:
        DataError: There are other folders.
    """
    if others:
        shown = ", ".join(repr(name) for name in others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
        raise DataError(
            f"{origin} contains {own!r}, the name of the training split, beside {shown}, which are not splits",
            f"if {own!r} is a class, move all classes into a folder called train; otherwise remove the other folders",
        )


def note_splits_used_as_classes(own: Mapping[str, str], origin: str) -> tuple[str, ...]:
    """Return notes about folders with the name of a split that are used as classes, because there is no training split.

    Args:
        own: The folder of each split.
        origin: Field and name of the data, for messages.
    """
    if not own:
        return ()
    shown = " and ".join(repr(name) for name in own.values())
    return (f"{origin} contains no folder called train, so {shown} is used as a class",)


def note_ignored_splits(others: Sequence[str], origin: str) -> tuple[str, ...]:
    """Return notes about splits of a dataset that are not used.

    Args:
        others: Names of the splits.
        origin: Field and name of the data, for messages.
    """
    if not others:
        return ()
    shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
    return (f"{origin} has the splits {shown}, which are ignored; to use one, rename it to validation or test",)


def note_ignored_files(extensions: Iterable[str], field: str, expected: str) -> tuple[str, ...]:
    """Return notes about ignored files.

    Args:
        extensions: The extension of each file.
        field: Field of the spec that names the files.
        expected: The expected extensions, for the message.
    """
    left = Counter(extensions)
    if not left:
        return ()
    kinds = ", ".join(extension or "none" for extension, _ in left.most_common(_SHOWN))
    return (f"{field}: {left.total():,} files are ignored, because their extensions ({kinds}) are not {expected}",)


def split(table: Table, spec: SplitSpec, seed: int, *, stratify: bool = True) -> Splits[Part]:
    """Return the splits of a dataset, shuffled with `seed`. A fraction above 0 gets at least one sample.

    Args:
        table: The dataset.
        spec: Fractions to hold out, unless the data has separate files for them.
        seed: Seed of the shuffle.
        stratify: Whether to stratify the splits by class, if the samples have classes.

    Raises:
        DataError: No samples would be left for training.
    """
    total = len(table.samples)
    tested = 0 if table.test is not None else _count(spec.test, total)
    validated = 0 if table.validation is not None else _count(spec.validation, total)
    if tested + validated >= total:
        raise DataError(
            f"spec.dataset.split: of {total} samples, {validated} go to validation and {tested} to test, "
            "which leaves none for training",
            "lower the fractions, or use more data",
        )
    if table.ordered:
        order = torch.arange(total).flip(0)  # Hold out the end of a text.
    else:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    targets = _classes_of(table)
    if stratify and targets is not None and not table.ordered:
        order = _stratified(order, targets, len(table.classes or ()), (tested, validated))
    test, validation = table.test, table.validation
    if tested:
        test = table.samples.select(order[:tested])
    if validated:
        validation = table.samples.select(order[tested : tested + validated])
    found = Splits(table.samples.select(order[tested + validated :]), validation, test, table.notes)
    return replace(found, notes=(*found.notes, *_notes_on_absent_classes(found, table.classes)))


def _count(fraction: float, total: int) -> int:
    return max(1, round(fraction * total)) if fraction else 0


def _classes_of(table: Table) -> Tensor | None:
    """Return the class of each sample to split ([samples] int64); None if they have no classes."""
    return None if table.classes is None else class_indices(table.samples)


def class_indices(part: Part | Split) -> Tensor | None:
    """Return the class of each sample ([samples] int64); None if they have no classes."""
    targets = getattr(part, "targets", None)
    return targets if isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1 else None


def _stratified(order: Tensor, targets: Tensor, classes: int, held_out: tuple[int, int]) -> Tensor:
    """Return an order that starts with stratified samples for test, followed by those for validation.

    A class with at least as many samples as there are splits is in each split, if the splits are large enough. Samples
    of smaller classes go to training first. Within a split, samples keep their order.

    Args:
        order: All samples, shuffled ([samples] int64).
        targets: Class of each sample ([samples] int64).
        classes: Number of classes.
        held_out: Number of samples held out for test and for validation.
    """
    sizes = torch.bincount(targets, minlength=classes)
    splits = 1 + sum(count > 0 for count in held_out)
    left = sizes.clone()
    labels = targets[order]
    by_class = labels.argsort(stable=True)
    begins = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[by_class] = torch.arange(len(order)) - begins.repeat_interleave(
        sizes
    )  # Position of a sample within its class.
    which = torch.full_like(order, len(held_out))
    for number, count in enumerate(held_out):
        later = sum(other > 0 for other in held_out[number + 1 :])
        least = ((sizes >= splits) & (count > 0)).long()
        taken = _shares(
            count, sizes.double() * count / len(order), least, (left - 1 - later * least).clamp(min=0), left
        )
        begin = sizes - left
        inside = (place >= begin[labels]) & (place < (begin + taken)[labels])
        which[inside] = number
        left = left - taken
    return order[which.argsort(stable=True)]


def _shares(count: int, wanted: Tensor, least: Tensor, most: Tensor, all_: Tensor) -> Tensor:
    """Return the number of samples to take from each class, as close as possible to the wanted shares.

    Args:
        count: Total number of samples to take.
        wanted: The exact share of each class ([classes] float64).
        least: Minimum number from each class, ignored if `count` is too small ([classes] int64).
        most: Maximum number from each class, ignored if `count` is too large ([classes] int64).
        all_: Number of available samples of each class ([classes] int64).
    """
    if least.sum() > count:
        least = torch.zeros_like(least)
    if most.sum() < count:
        most = all_
    taken = wanted.floor().long().clamp(min=least, max=most)
    while rest := count - int(taken.sum()):
        step = 1 if rest > 0 else -1
        free = taken < most if step > 0 else taken > least
        missing = torch.where(free, (wanted - taken) * step, -torch.inf).argsort(descending=True, stable=True)
        taken[missing[: min(abs(rest), int(free.sum()))]] += step
    return taken


def _notes_on_absent_classes(splits: Splits[Part], classes: tuple[str, ...] | None) -> Iterator[str]:
    """Yield notes about splits that lack classes."""
    if classes is None:
        return
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        targets = None if part is None else class_indices(part)
        if targets is None:
            continue
        absent = (torch.bincount(targets, minlength=len(classes)) == 0).nonzero().flatten().tolist()
        if absent:
            shown = ", ".join(classes[index] for index in absent[:_SHOWN]) + (", …" if len(absent) > _SHOWN else "")
            yield f"spec.dataset: the {name} split lacks {len(absent):,} of {len(classes):,} classes: {shown}"
