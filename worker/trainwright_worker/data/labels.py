"""From labels as the data spells them to the numbers of classes."""

from array import array
from collections.abc import Iterable

import torch
from torch import Tensor

from trainwright_worker.errors import DataError


class Labels:
    """Labels as they are read: a number each, and every spelling once."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._names: dict[str, int] = {}
        self._codes = array("q")
        for value in values:
            self.add(value)

    def __len__(self) -> int:
        """Return how many were read."""
        return len(self._codes)

    def add(self, value: object) -> None:
        """Take the label of the next sample; whole numbers and text spell the same class in the same way."""
        self._codes.append(self._names.setdefault(str(value).strip(), len(self._names)))

    def classes(self) -> tuple[str, ...]:
        """Return the classes: whole numbers in their order, anything else as text."""
        try:
            return tuple(sorted(self._names, key=int))
        except ValueError:
            return tuple(sorted(self._names))

    def index(self, classes: tuple[str, ...], field: str) -> Tensor:
        """Return the index of each label's class ([labels] int64).

        Args:
            classes: The classes of the training data.
            field: Field of the spec that led to these labels.

        Raises:
            DataError: A label is none of the classes.
        """
        position = {name: index for index, name in enumerate(classes)}
        for name in self._names:
            if name not in position:
                shown = ", ".join(classes[:10]) + (", …" if len(classes) > 10 else "")  # noqa: PLR2004 - enough to see
                raise DataError(f"{field}: the label {name!r} is no class of the training data, which has {shown}")
        numbers = torch.tensor([position[name] for name in self._names], dtype=torch.int64)
        codes = torch.frombuffer(self._codes, dtype=torch.int64) if self._codes else torch.zeros(0, dtype=torch.int64)
        return numbers[codes] if len(numbers) else codes
