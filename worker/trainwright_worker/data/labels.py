"""Maps labels in the data to the indices of classes."""

import difflib
import math
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final

import torch
from torch import Tensor

from trainwright_worker.data.cells import show
from trainwright_worker.errors import DataError

_INVISIBLE: Final = frozenset({"Cc", "Cf"})
_SHOWN: Final = 10
"""Maximum number of labels that a message lists."""


class Labels:
    """The labels of samples, stored as one code per sample and each spelling once.

    Spellings that differ only in surrounding whitespace or Unicode normalization (a letter with an accent as one
    character or two) are the same class.
    """

    def __init__(self, values: Iterable[object] = ()) -> None:
        self._spellings: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._codes = array("q")
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self._codes)

    def add(self, value: object) -> None:
        """Add the label of the next sample; an integer is the same class as int, float or text."""
        # pandas stores a column of integers as floats if a value is missing.
        spelling = str(int(value) if isinstance(value, float | Decimal) and value % 1 == 0 else value)
        code = self._spellings.get(spelling)
        if code is None:
            name = unicodedata.normalize("NFC", spelling).strip()
            code = self._spellings[spelling] = self._names.setdefault(name, len(self._names))
        self._codes.append(code)

    def classes(self) -> tuple[str, ...]:
        """Return the classes, sorted as numbers if all are integers, otherwise as text."""
        if all(_is_whole(name) for name in self._names):
            return tuple(sorted(self._names, key=lambda name: (int(name), name)))
        return tuple(sorted(self._names))

    def index(self, classes: tuple[str, ...], field: str) -> Tensor:
        """Return the index of each label's class ([labels] int64).

        Args:
            classes: The classes of the training data.
            field: Field of the spec that names the data of these labels.

        Raises:
            DataError: Some labels are not among the classes.
        """
        position = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in self._names if name not in position]
        if unknown:
            what = "label {} is not a class" if len(unknown) == 1 else "labels {} are not classes"
            close = difflib.get_close_matches(unknown[0], classes, n=1)
            raise DataError(
                f"{field}: the {what.format(_listed(list(map(repr, unknown))))} of the training data, which has "
                f"{_listed(classes)}",
                f"did you mean {close[0]!r} by {unknown[0]!r}?" if close else None,
            )
        numbers = torch.tensor([position[name] for name in self._names], dtype=torch.int64)
        codes = torch.frombuffer(self._codes, dtype=torch.int64) if self._codes else torch.zeros(0, dtype=torch.int64)
        return numbers[codes] if len(numbers) else codes

    def check_names(self, column: str, field: str) -> None:
        """Check that the labels are not numbers with fractions, which are measurements rather than classes.

        Args:
            column: The column of the labels.
            field: Field of the spec that names it.

        Raises:
            DataError: All labels are numbers, and one has a fraction.
        """
        numbers = [_number(name) for name in self._names]
        fraction = next((number for number in numbers if not number.is_integer()), None)
        if fraction is None or any(map(math.isnan, numbers)):
            return
        raise DataError(
            f"{field}: column {column!r} has {len(numbers):,} different numbers, such as {fraction}, which are not "
            "classes",
            "predict them with task: regression, or write the classes as text",
        )

    def notes(self, field: str) -> list[str]:
        """Return notes about spellings that are merged into one class, and about classes that differ only slightly."""
        notes = []
        merged = _together(self._spellings, lambda spelling: str(self._spellings[spelling]))
        if merged:
            notes.append(
                f"{field}: labels that differ only in surrounding whitespace or Unicode normalization are one class: "
                f"{_listed([' and '.join(map(show, group)) for group in merged])}"
            )
        return [*notes, *note_alike(self._names, field)]


def _together(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """Return the groups of two or more names with the same key."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def note_alike(names: Iterable[str], field: str) -> list[str]:
    """Return a note about classes that look the same or are the same number, if there are any."""
    alike = _together(names, _folded)
    if not alike:
        return []
    shown = _listed([" and ".join(map(show, group)) for group in alike])
    same = "classes that are the same number, or differ only in case, in kinds of spaces or in invisible characters"
    return [f"{field}: {same}, are different classes: {shown}"]


def _folded(name: str) -> str:
    """Return a text that is the same for class names that a person takes for the same."""
    if _is_whole(name):
        return str(int(name))
    number = _number(name)
    if not math.isnan(number):
        return str(number)
    # NFKC turns all kinds of spaces into one. Of the categories Cc and Cf nothing is visible.
    visible = (
        letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) not in _INVISIBLE
    )
    return "".join(visible).casefold().strip()


def _number(name: str) -> float:
    """Return the number that a class name spells, with or without leading zeros; NaN if it is not a number."""
    try:
        return math.nan if "_" in name else float(name)
    except ValueError:
        return math.nan


def _is_whole(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
