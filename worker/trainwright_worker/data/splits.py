"""Which samples train, which validate, which test: drawn from the seed, so every rank and every restart agrees."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

import torch
from torch import Tensor

from trainwright.api.spec.dataset import SplitSpec
from trainwright_worker.data.table import Part, Table
from trainwright_worker.errors import DataError

_SHOWN: Final = 5
"""How many names a message lists."""

Kind_co = TypeVar("Kind_co", covariant=True)
Other = TypeVar("Other")

_NAMES: Final = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
"""What data calls its own splits, in upper or lower case."""


@dataclass(frozen=True)
class Splits(Generic[Kind_co]):
    """The three parts of a dataset; None where the spec asks for none. With them goes what a person should know of it."""

    train: Kind_co
    validation: Kind_co | None
    test: Kind_co | None
    notes: tuple[str, ...] = ()

    def map(self, change: Callable[[Kind_co, str], Other]) -> "Splits[Other]":
        """Return the splits, each changed by `change`, which is given a split and its name."""
        return Splits(
            change(self.train, "train"),
            None if self.validation is None else change(self.validation, "validation"),
            None if self.test is None else change(self.test, "test"),
            self.notes,
        )


def find_own(names: Iterable[str], origin: str) -> dict[str, str]:
    """Return which of the data's own parts is which split, as {"train": "Training"}.

    Args:
        names: Names of the parts, some of which may be no splits.
        origin: How to speak of what holds them, after the field.

    Raises:
        DataError: Two of them are the same split.
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


def refuse_others(others: Sequence[str], own: str, origin: str) -> None:
    """Refuse folders that hold data beside that of the training split: they may be classes, and it one of them.

    Args:
        others: Their names.
        own: The folder of the training split.
        origin: How to speak of what holds them, after the field.

    Raises:
        DataError: There are some.
    """
    if others:
        shown = ", ".join(repr(name) for name in others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
        raise DataError(
            f"{origin} holds {own!r}, the name of the training split, beside {shown}, which are no splits",
            f"if {own!r} is a class, move the folders of all classes into a folder called train; else move the others away",
        )


def say_taken_as_classes(own: Mapping[str, str], origin: str) -> tuple[str, ...]:
    """Return what is to be said of folders that are named as splits, but are classes since there is none to train on.

    Args:
        own: Which of the folders is which split.
        origin: How to speak of what holds them, after the field.
    """
    if not own:
        return ()
    shown = " and ".join(repr(name) for name in own.values())
    return (f"{origin} holds no folder called train, so that {shown} is taken for a class",)


def say_other_splits(others: Sequence[str], origin: str) -> tuple[str, ...]:
    """Return what is to be said of splits of a dataset that are none of ours.

    Args:
        others: Their names.
        origin: How to speak of what holds them, after the field.
    """
    if not others:
        return ()
    shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
    return (f"{origin} has the splits {shown}, which are left out; to use one, rename it to validation or test",)


def say_left_out(extensions: Iterable[str], field: str, what: str) -> tuple[str, ...]:
    """Return what is to be said of files that are left out.

    Args:
        extensions: The extension of each.
        field: Field of the spec that leads to them.
        what: What these extensions are not, as the end of a sentence.
    """
    left = Counter(extensions)
    if not left:
        return ()
    kinds = ", ".join(extension or "none" for extension, _ in left.most_common(_SHOWN))
    return (f"{field}: {left.total():,} files are left out, since their extensions ({kinds}) are {what}",)


def split(table: Table, spec: SplitSpec, seed: int, *, stratify: bool = True) -> Splits[Part]:
    """Return the parts of a dataset, shuffled by `seed`. A fraction above 0 gets at least one sample.

    Args:
        table: The dataset.
        spec: Which fractions to hold out, where the data has no files of its own for them.
        seed: Seed of the shuffle.
        stratify: Give each split its share of each class, where the samples have classes.

    Raises:
        DataError: Nothing would be left to train on.
    """
    total = len(table.samples)
    tested = 0 if table.test is not None else _count(spec.test, total)
    validated = 0 if table.validation is not None else _count(spec.validation, total)
    if tested + validated >= total:
        raise DataError(
            f"spec.dataset.split: of {total} samples {validated} go to validation and {tested} to test, "
            "which leaves none to train on"
        )
    if table.ordered:
        order = torch.arange(total).flip(0)  # The end is held out: what a text goes on with, not what it quotes.
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
    return replace(found, notes=(*found.notes, *_say_what_lacks(found, table.classes)))


def _count(fraction: float, total: int) -> int:
    return max(1, round(fraction * total)) if fraction else 0


def _classes_of(table: Table) -> Tensor | None:
    """Return the class of each sample to split ([samples] int64); None if they have none."""
    return None if table.classes is None else class_indices(table.samples)


def class_indices(part: Part) -> Tensor | None:
    """Return the class of each sample ([samples] int64); None if they have none."""
    targets = getattr(part, "targets", None)
    return targets if isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.dim() == 1 else None


def _stratified(order: Tensor, targets: Tensor, classes: int, held_out: tuple[int, int]) -> Tensor:
    """Return an order whose first samples, those held out for test and then for validation, have their share of each class.

    A class with at least as many samples as there are splits is in each of them, if they are large enough; all others are
    trained on first. Within a split the samples stay in the order that they had.

    Args:
        order: All samples, shuffled ([samples] int64).
        targets: Class of each sample ([samples] int64).
        classes: Number of classes.
        held_out: How many samples are held out for test and for validation.
    """
    sizes = torch.bincount(targets, minlength=classes)
    splits = 1 + sum(count > 0 for count in held_out)
    left = sizes.clone()
    labels = targets[order]
    by_class = labels.argsort(stable=True)
    begins = sizes.cumsum(0) - sizes
    place = torch.empty_like(order)
    place[by_class] = torch.arange(len(order)) - begins.repeat_interleave(sizes)  # of a sample within its class
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
    """Return how many samples of each class to take, `count` in all: as near as can be to what is wanted.

    Args:
        count: How many samples to take.
        wanted: The exact share of each class ([classes] float64).
        least: How many to take at least, if `count` allows it ([classes] int64).
        most: How many to take at most, if that is enough ([classes] int64).
        all_: How many there are ([classes] int64).
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


def _say_what_lacks(splits: Splits[Part], classes: tuple[str, ...] | None) -> Iterator[str]:
    """Yield what is to be said of splits that lack classes."""
    if classes is None:
        return
    for name, part in (("training", splits.train), ("validation", splits.validation), ("test", splits.test)):
        targets = None if part is None else class_indices(part)
        if targets is None:
            continue
        absent = (torch.bincount(targets, minlength=len(classes)) == 0).nonzero().flatten().tolist()
        if absent:
            shown = ", ".join(classes[index] for index in absent[:_SHOWN]) + (", …" if len(absent) > _SHOWN else "")
            yield f"spec.dataset: the {name} split has no sample of {len(absent):,} of {len(classes):,} classes: {shown}"
