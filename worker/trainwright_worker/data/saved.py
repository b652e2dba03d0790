"""Datasets that Hugging Face's library has saved on disk: Arrow files, mapped into memory and read as they are needed."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import HuggingFaceData
from trainwright.api.spec.preparation import MissingTargets
from trainwright.api.spec.source import Target
from trainwright_worker.data.cells import LOOKED_AT, Faults, Gaps, Rows, find_unusable
from trainwright_worker.data.columns import Columns, missing_column
from trainwright_worker.data.corpus import chosen, filled
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import Marks, Pictures
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.splits import find_own, say_other_splits
from trainwright_worker.data.table import Part, Reading, Table
from trainwright_worker.data.texts import add_text_fault
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
        """Read all texts in their order.

        Raises:
            DataError: Some are no texts; once all are read.
        """
        faults = Faults()
        rows = Rows("row", self.origin)
        for number, text in enumerate(_values(self.rows, self.column), start=1):
            if not add_text_fault(faults, self.field, self.column, rows, number, text, blank=self.blank):
                yield text
        faults.check()

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
        return f"in row {row + 1} of {self.origin}"

    def blocks(self) -> Tensor | None:
        """Return None: all are near."""
        return None

    def origins(self, rows: Tensor) -> Origins:
        """Return the rows of some images ([samples] int64)."""
        return Origins.of_file(self.origin, rows + 1)

    def marks(self) -> Marks:
        """Return what tells the images apart: their place alone, since to look at more takes as long as to read them."""
        return Marks((self.origin,), np.zeros(len(self.rows), np.int64), np.arange(len(self.rows)))


def read_saved(data: HuggingFaceData, root: str, target: Target, missing: MissingTargets) -> Table:
    """Return a saved dataset with its own splits.

    Args:
        data: Which columns of which dataset.
        root: Folder at which relative paths start.
        target: What is to be learnt, which decides what the columns must hold.
        missing: What becomes of rows without a target.

    Raises:
        DataError: There is none, or a column is missing or holds something else than the spec says.
    """
    splits, notes = _load(data, root)
    reader = _Reader(data, target, missing)
    found = {
        name: reader.read(splits[name][0], f"the {spoken} split of {data.path}", splits[name][1])
        for name, spoken in (("train", "training"), ("test", "test"), ("validation", "validation"))
        if name in splits
    }
    reader.faults.check()
    parts = {name: reader.part(split) for name, split in found.items()}
    return Table(
        parts["train"], reader.classes, parts.get("test"), parts.get("validation"), notes=(*notes, *reader.notes)
    )


def _load(data: HuggingFaceData, root: str) -> tuple[dict[str, tuple[Any, str]], tuple[str, ...]]:
    """Return the rows of each split and where they lie, by our names, and notes on the splits that are left out."""
    import datasets  # noqa: PLC0415 - takes seconds; only jobs with such data need it

    folder = find(data.path, root, f"{_FIELD}.path")
    try:
        with folder.reading():
            found = datasets.load_from_disk(folder.name)
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{_FIELD}.path: {folder.name} is no dataset that save_to_disk wrote: {error}") from error
    if isinstance(found, datasets.Dataset):
        return {"train": (found, folder.name)}, ()
    own = find_own(found, f"{_FIELD}.path: {folder.name}")
    if "train" not in own:
        raise DataError(f"{_FIELD}.path: {folder.name} has no split called train; it has {', '.join(found)}")
    notes = say_other_splits([name for name in found if name not in own.values()], f"{_FIELD}.path: {folder.name}")
    return {split: (found[name], folder.child(name).name) for split, name in own.items()}, notes


@dataclass(frozen=True)
class _Split:
    """A split of which the targets are read.

    Attributes:
        rows: All its rows.
        origin: How to speak of it.
        place: Where it lies.
        kept: Which rows have a target ([samples] int64).
        targets: Numbers ([samples, targets] float64), classes ([samples] int64) or labels; None where there are none.
        inputs: Numbers of the features ([samples, features] float64), if those are the inputs.
    """

    rows: Any
    origin: str
    place: str
    kept: Tensor
    targets: Tensor | Labels | None
    inputs: Tensor | None = None

    @property
    def origins(self) -> Origins:
        """The row of each sample."""
        return Origins.of_file(self.place, self.kept + 1)


class _Reader:
    """Reads splits one after the other, the training split first, since its classes and its units are those of all."""

    def __init__(self, data: HuggingFaceData, target: Target, missing: MissingTargets) -> None:
        self.classes: tuple[str, ...] | None = None
        self.faults = Faults()
        self._data = data
        self._target = target
        self._columns = Columns(_FIELD)
        self._gaps = Gaps(missing, self.faults, f"{_FIELD}.label", data.label)
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data."""
        return [*self._notes, *self._gaps.notes()]

    def read(self, rows: Any, origin: str, place: str) -> _Split:
        """Read the targets of a split, and its inputs if they are numbers.

        Args:
            rows: The split.
            origin: How to speak of it.
            place: Where it lies.

        Raises:
            DataError: It is empty, or a column is missing or of a type that cannot be used.
        """
        if not len(rows):
            raise DataError(f"{_FIELD}.path: {origin} is empty")
        data = self._data
        for key, names in (("text", [data.text]), ("image", [data.image]), ("features", data.features or [])):
            for name in filter(None, names):
                _need(rows, name, key, origin)
        if data.image is not None:
            _encoded(rows, data.image, origin)
        if self._target == Target.TOKENS:
            return _Split(rows, origin, place, torch.arange(len(rows)), None)
        _need(rows, data.label, "label", origin)
        kept, targets = (
            self._numbers_to_predict(rows, origin) if self._target == Target.NUMBERS else self._labels(rows, origin)
        )
        if not len(kept):
            self.faults.check()
            raise DataError(
                f"{_FIELD}.label: {origin} has no rows with a target",
                "a split without labels, as that of a contest, must be removed",
            )
        if data.features is None:
            return _Split(rows, origin, place, kept, targets)
        return _Split(rows, origin, place, kept, targets, self._read_features(rows, origin, kept))

    def part(self, split: _Split) -> Part:
        """Return the samples of a split."""
        data = self._data
        if data.text is not None:
            modeling = self._target == Target.TOKENS
            store = SavedTexts(split.rows, data.text, f"{_FIELD}.text", split.origin, blank=modeling)
            if modeling:
                texts, notes = filled(store, split.origin)
                self._notes += notes
                return texts
            return chosen(store, split.kept, self._indices(split), split.origins)
        targets = self._indices(split)
        if split.inputs is not None:
            return Samples(split.inputs, targets, self._names(split), split.origins, self._columns.units)
        name = data.image or ""
        images = SavedImages(_encoded(split.rows, name, split.origin), name, split.origin)
        return Pictures(images, split.kept, targets, data, f"{_FIELD}.image")

    def _names(self, split: _Split) -> tuple[str, ...] | None:
        """Return the names of the features, unless some columns hold several."""
        names = self._data.features or []
        return tuple(names) if split.inputs is not None and split.inputs.shape[1] == len(names) else None

    def _indices(self, split: _Split) -> Tensor:
        """Return the targets of a split: those of labels are the indices of their classes."""
        if isinstance(split.targets, Labels):
            if self.classes is None:
                split.targets.check_names(self._data.label, f"{_FIELD}.label")
                self.classes = split.targets.classes()
                self._notes += split.targets.notes(f"{_FIELD}.label")
            return split.targets.index(self.classes, f"{_FIELD}.label: {split.origin}")
        if split.targets is None:
            raise TypeError(self._target)
        return split.targets

    def _numbers_to_predict(self, rows: Any, origin: str) -> tuple[Tensor, Tensor]:
        """Return the rows that have a target, and the targets."""
        name, place = self._data.label, Rows("row", origin)
        values, cells = self._read_numbers(rows, name, "label", origin)
        kept = np.arange(len(values))
        if values.shape[1] == 1:
            doubtful = np.flatnonzero(np.isnan(values[:, 0])).tolist()
            gaps = [row for row in doubtful if self._gaps.holds(cells[row].as_py(), place, row + 1)]
            kept = np.setdiff1d(kept, gaps)
        self._check_numbers(values, cells, name, "label", origin, kept)
        return torch.from_numpy(kept), torch.from_numpy(values[kept])

    def _labels(self, rows: Any, origin: str) -> tuple[Tensor, Tensor | Labels]:
        """Return the rows that have a target, and the classes that they are of."""
        name, place = self._data.label, Rows("row", origin)
        known = getattr(rows.features[name], "names", None)
        if known is not None:
            self.classes = self.classes or tuple(known)
            if tuple(known) != self.classes:
                raise DataError(f"{_FIELD}.label: {origin} has the classes {', '.join(known)}, not those of training")
        labels, kept, classes = Labels(), array("q"), array("q")
        for row, value in enumerate(_values(rows, name)):
            # The library writes -1 where it knows no class.
            if self._gaps.holds(None if known and value == -1 else value, place, row + 1):
                continue
            if known is not None and 0 <= value < len(known):
                classes.append(value)
            elif known is None and isinstance(value, str | int | float):
                labels.add(value)
            else:
                what = "text or a whole number" if known is None else f"a class from 0 to {len(known) - 1}"
                need = (f"{_FIELD}.label", f"column {name!r} must hold {what}")
                self.faults.add(need, place, [(row + 1, value)], "write what names the class")
                continue
            kept.append(row)
        return torch.tensor(kept, dtype=torch.int64), labels if known is None else torch.tensor(classes)

    def _read_features(self, rows: Any, origin: str, kept: Tensor) -> Tensor:
        """Return the columns of features of some rows ([kept, features] float64)."""
        columns = []
        for name in self._data.features or []:
            values, cells = self._read_numbers(rows, name, "features", origin)
            self._check_numbers(values, cells, name, "features", origin, kept.numpy())
            columns.append(values[kept.numpy()])
        return torch.from_numpy(np.concatenate(columns, axis=1))

    def _read_numbers(self, rows: Any, column: str, key: str, origin: str) -> tuple[Array, Any]:
        """Return a column of numbers, or of equally long lists of them ([rows, width] float64), and its cells, flat."""
        import pyarrow as pa  # noqa: PLC0415 - only jobs with such data need it

        batches = rows.select_columns([column]).with_format("arrow").iter(_ROWS)
        parts = [_flatten(batch.column(column).combine_chunks()) for batch in batches]
        if not all(parts) or len({width for _, width in filter(None, parts)}) > 1:
            raise DataError(f"{_FIELD}.{key}: {column!r} of {origin} does not hold numbers of one shape")
        cells = pa.chunked_array([flat for flat, _ in filter(None, parts)])
        self._columns.check({column: cells.type}, origin, f"{_FIELD}.{key}")
        numbers = np.concatenate([self._columns.to_numbers(column, chunk) for chunk in cells.chunks])
        return numbers.reshape(len(rows), -1), cells

    def _check_numbers(self, values: Array, cells: Any, column: str, key: str, origin: str, kept: Array) -> None:
        """Take in the cells of some rows that are not finite numbers of 32 bits."""
        places = np.arange(values.size).reshape(values.shape)[kept].flatten()
        unusable = places[find_unusable(values[kept].flatten())]
        shown = [cells[int(index)].as_py() for index in unusable[:LOOKED_AT]]
        rows = Rows("row", origin)
        self.faults.add_numbers(column, f"{_FIELD}.{key}", rows, unusable // values.shape[1] + 1, shown)


def _flatten(values: Any) -> tuple[Any, int] | None:
    """Return the numbers in a column of Arrow one after the other, and how many a row holds; None if rows differ in that."""
    import pyarrow as pa  # noqa: PLC0415 - only jobs with such data need it
    from pyarrow import compute  # noqa: PLC0415 - the same

    rows = len(values)
    while True:
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
        elif pa.types.is_nested(values.type) and not pa.types.is_struct(values.type):
            if values.null_count or len(compute.unique(compute.list_value_length(values))) != 1:
                return None
            values = values.flatten()
        else:
            return values, len(values) // rows


def _values(rows: Any, column: str) -> Iterator[Any]:
    for batch in rows.select_columns([column]).with_format(None).iter(_ROWS):
        yield from batch[column]


def _encoded(rows: Any, column: str, origin: str) -> Any:
    import datasets  # noqa: PLC0415 - takes seconds; only jobs with such data need it

    _need(rows, column, "image", origin)
    if not isinstance(rows.features[column], datasets.Image):
        raise DataError(f"{_FIELD}.image: {column!r} of {origin} holds {rows.features[column]}, not images")
    # A set may have been saved with the wish to see it as tensors or as other columns.
    return rows.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _need(rows: Any, column: str, key: str, origin: str) -> None:
    if column not in rows.column_names:
        raise missing_column(f"{_FIELD}.{key}", origin, column, rows.column_names)
