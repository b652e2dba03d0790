"""Which samples train, which validate, which test: drawn from the seed, so every rank and every restart agrees."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import torch

from trainwright.api.spec.dataset import SplitSpec
from trainwright_worker.data.table import Part, Table
from trainwright_worker.errors import DataError

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


def split(table: Table, spec: SplitSpec, seed: int) -> Splits[Part]:
    """Return the parts of a dataset, shuffled by `seed`. A fraction above 0 gets at least one sample.

    Raises:
        DataError: Nothing would be left to train on.
    """
    total = len(table.samples)
    if table.ordered:
        order = torch.arange(total).flip(0)  # The end is held out: what a text goes on with, not what it quotes.
    else:
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    tested = 0 if table.test is not None else _count(spec.test, total)
    validated = 0 if table.validation is not None else _count(spec.validation, total)
    if tested + validated >= total:
        raise DataError(
            f"spec.dataset.split: of {total} samples {validated} go to validation and {tested} to test, "
            "which leaves none to train on"
        )
    test, validation = table.test, table.validation
    if tested:
        test = table.samples.select(order[:tested])
    if validated:
        validation = table.samples.select(order[tested : tested + validated])
    return Splits(table.samples.select(order[tested + validated :]), validation, test, table.notes)


def _count(fraction: float, total: int) -> int:
    return max(1, round(fraction * total)) if fraction else 0
