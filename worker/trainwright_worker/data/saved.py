"""Datasets that Hugging Face's library has saved on disk: Arrow files, mapped into memory and read as they are needed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import HuggingFaceData
from trainwright.api.spec.source import Target
from trainwright_worker.data.corpus import filled, whole
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import Marks, Pictures
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.splits import find_own, say_other_splits
from trainwright_worker.data.table import LARGEST, Part, Reading, Samples, Table
from trainwright_worker.data.texts import find_fault
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find, place

_FIELD: Final = "spec.dataset.huggingface"
_ROWS: Final = 1024


@dataclass(frozen=True)
class SavedTexts:
    """A column of texts, some of which may be blank if the spec's task allows it."""

    rows: Any
    column: str
    field: str
    origin: str
    blank: bool

    @property
    def places(self) -> list[Location]:
        """The files in which the rows lie."""
        return [place(entry["filename"], "", self.field) for entry in self.rows.cache_files]

    def texts(self) -> Iterator[str]:
        """Read all texts in their order."""
        for number, text in enumerate(_values(self.rows, self.column)):
            if fault := find_fault(text, blank=self.blank):
                raise DataError(f"{self.field}: the text in row {number} of {self.origin} {fault}")
            yield text

    def stamp(self) -> object:
        """Return what changes when the texts do, as JSON types."""
        files = [entry["filename"] for entry in self.rows.cache_files]
        return [
            self.origin,
            self.column,
            [[name, Path(name).stat().st_mtime, Path(name).stat().st_size] for name in files],
        ]


@dataclass(frozen=True)
class SavedImages:
    """A column of images, encoded in the Arrow file or in files beside it."""

    rows: Any
    column: str
    origin: str
    reading: Reading = Reading.DECODING

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        entry = self.rows[row][self.column]
        if entry is None:
            raise DataError(f"{_FIELD}.image: {self.name(row)} holds no image")
        content: bytes = entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes()
        return content

    def name(self, row: int) -> str:
        """Return how to speak of an image in an error."""
        return f"in row {row} of {self.origin}"

    def blocks(self) -> Tensor | None:
        """Return None: all are near."""
        return None

    def origins(self, rows: Tensor) -> Origins:
        """Return the rows of some images ([samples] int64)."""
        return Origins.of_file(self.origin, rows + 1)

    def marks(self) -> Marks:
        """Return what tells the images apart: their place alone, since to look at more takes as long as to read them."""
        return Marks((self.origin,), np.zeros(len(self.rows), np.int64), np.arange(len(self.rows)))


def read_saved(data: HuggingFaceData, root: str, target: Target) -> Table:
    """Return a saved dataset with its own splits.

    Raises:
        DataError: There is none, or a column is missing or holds something else than the spec says.
    """
    splits, notes = _load(data, root)
    reader = _Reader(data, target)
    train = reader.part(splits["train"], f"the training split of {data.path}")
    test, validation = (
        reader.part(splits[name], f"the {name} split of {data.path}") if name in splits else None
        for name in ("test", "validation")
    )
    return Table(train, reader.classes, test, validation, notes=(*notes, *reader.notes))


def _load(data: HuggingFaceData, root: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the rows of each split, by our names, and what is to be said of the others."""
    import datasets  # noqa: PLC0415 - takes seconds; only jobs with such data need it

    folder = find(data.path, root, f"{_FIELD}.path")
    try:
        with folder.reading():
            found = datasets.load_from_disk(folder.name)
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{_FIELD}.path: {folder.name} is no dataset that save_to_disk wrote: {error}") from error
    if isinstance(found, datasets.Dataset):
        return {"train": found}, ()
    own = find_own(found, f"{_FIELD}.path: {folder.name}")
    if "train" not in own:
        raise DataError(f"{_FIELD}.path: {folder.name} has no split called train; it has {', '.join(found)}")
    notes = say_other_splits([name for name in found if name not in own.values()], f"{_FIELD}.path: {folder.name}")
    return {split: found[name] for split, name in own.items()}, notes


class _Reader:
    """Reads splits one after the other, the training split first, since its classes are those of all."""

    def __init__(self, data: HuggingFaceData, target: Target) -> None:
        self.classes: tuple[str, ...] | None = None
        self.notes: list[str] = []
        self._data = data
        self._target = target

    def part(self, rows: Any, origin: str) -> Part:
        """Return the samples of a split."""
        data = self._data
        if not len(rows):
            raise DataError(f"{_FIELD}.path: {origin} is empty")
        if data.text is not None:
            _need(rows, data.text, "text", origin)
            modeling = self._target == Target.TOKENS
            store = SavedTexts(rows, data.text, f"{_FIELD}.text", origin, blank=modeling)
            if not modeling:
                return whole(store, self._targets(rows, origin))
            texts, notes = filled(store, origin)
            self.notes += notes
            return texts
        if data.image is not None:
            images = SavedImages(_encoded(rows, data.image, origin), data.image, origin)
            field = f"{_FIELD}.image"
            return Pictures(images, torch.arange(len(rows)), self._targets(rows, origin), data, field)
        columns = [_numbers(rows, name, "features", origin).reshape(len(rows), -1) for name in data.features or ()]
        return Samples(torch.from_numpy(np.concatenate(columns, axis=1)), self._targets(rows, origin))

    def _targets(self, rows: Any, origin: str) -> Tensor:
        name = self._data.label
        _need(rows, name, "label", origin)
        if self._target == Target.NUMBERS:
            return torch.from_numpy(_numbers(rows, name, "label", origin).reshape(len(rows), -1))
        names = getattr(rows.features[name], "names", None)
        if names is not None:
            return self._indices(rows, tuple(names), origin)
        labels = Labels()
        for number, value in enumerate(_values(rows, name)):
            if not isinstance(value, str | int) or not str(value).strip():
                raise DataError(f"{_FIELD}.label: row {number} of {origin} has the label {value!r}")
            labels.add(value)
        self.classes = self.classes or labels.classes()
        return labels.index(self.classes, f"{_FIELD}.label")

    def _indices(self, rows: Any, names: tuple[str, ...], origin: str) -> Tensor:
        self.classes = self.classes or names
        if names != self.classes:
            raise DataError(f"{_FIELD}.label: {origin} has the classes {', '.join(names)}, not those of training")
        found = [-1 if value is None else value for value in _values(rows, self._data.label)]
        targets = torch.tensor(found, dtype=torch.int64)
        wrong = torch.nonzero((targets < 0) | (targets >= len(names)))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{_FIELD}.label: row {row} of {origin} has the class {found[row]}, but classes are 0 to {len(names) - 1}",
                "a split without labels, as that of a contest, must be removed",
            )
        return targets


def _values(rows: Any, column: str) -> Iterator[Any]:
    for batch in rows.select_columns([column]).with_format(None).iter(_ROWS):
        yield from batch[column]


def _numbers(rows: Any, column: str, key: str, origin: str) -> Array:
    """Return a column of numbers, or of equally long lists of them, as float64."""
    _need(rows, column, key, origin)
    try:
        values = np.concatenate(
            [
                np.asarray(batch[column], np.float64)
                for batch in rows.select_columns([column]).with_format(None).iter(_ROWS)
            ]
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{_FIELD}.{key}: {column!r} of {origin} does not hold numbers of one shape: {error}"
        ) from error
    if not (np.abs(values) <= LARGEST).all():  # Not a number is not, either.
        raise DataError(f"{_FIELD}.{key}: {column!r} of {origin} holds values that are not finite numbers of 32 bits")
    return values


def _encoded(rows: Any, column: str, origin: str) -> Any:
    import datasets  # noqa: PLC0415 - takes seconds; only jobs with such data need it

    _need(rows, column, "image", origin)
    if not isinstance(rows.features[column], datasets.Image):
        raise DataError(f"{_FIELD}.image: {column!r} of {origin} holds {rows.features[column]}, not images")
    # A set may have been saved with the wish to see it as tensors or as other columns.
    return rows.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _need(rows: Any, column: str, key: str, origin: str) -> None:
    if column not in rows.column_names:
        raise DataError(f"{_FIELD}.{key}: {origin} has no column {column!r}; it has {', '.join(rows.column_names)}")
