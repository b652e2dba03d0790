"""Reads datasets that Hugging Face's library has saved on disk: Arrow files, memory-mapped and read on demand."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xxhash
from torch import Tensor

from trainwright.api.spec.corpora import HuggingFaceData
from trainwright.api.spec.preparation import MissingTargets
from trainwright.api.spec.source import Target
from trainwright_worker.data.cells import LOOKED_AT, Faults, Gaps, Rows, find_unusable
from trainwright_worker.data.columns import Columns, missing_column
from trainwright_worker.data.corpus import chosen, without_blank_texts
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import Marks, Pictures
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.records import add_text_fault
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.splits import find_splits, note_ignored_splits
from trainwright_worker.data.table import Part, Reading, Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find, place

_FIELD: Final = "spec.dataset.huggingface"
_ROWS: Final = 1024


@dataclass(frozen=True)
class SavedTexts:
    """A column of texts, which may be blank if the task allows it."""

    rows: Any
    column: str
    field: str
    origin: str
    blank: bool

    @property
    def places(self) -> list[Location]:
        """The files of the rows."""
        return _files_of(self.rows, self.field)

    def texts(self) -> Iterator[str]:
        """Yield all texts in order.

        Raises:
            DataError: Some values are not texts; raised after all are read.
        """
        faults = Faults()
        rows = Rows("row", self.origin)
        for number, text in enumerate(_values(self.rows, self.column), start=1):
            if not add_text_fault(faults, self.field, self.column, rows, number, text, blank=self.blank):
                yield text
        faults.check()

    def stamp(self) -> object:
        """Return a value that changes when the texts change, as JSON types."""
        files = [entry["filename"] for entry in self.rows.cache_files]
        return [
            self.origin,
            self.column,
            [[name, Path(name).stat().st_mtime, Path(name).stat().st_size] for name in files],
        ]


@dataclass(frozen=True)
class SavedImages:
    """A column of images, encoded in the Arrow file or in separate files."""

    rows: Any
    column: str
    origin: str
    place: str
    reading: Reading = Reading.DECODING

    @property
    def places(self) -> list[Location]:
        """The files of the rows."""
        return _files_of(self.rows, f"{_FIELD}.image")

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row."""
        entry = self.rows[row][self.column]
        if entry is None:
            raise DataError(f"{_FIELD}.image: the image {self.name(row)} is missing", "remove the row or add the image")
        content: bytes = entry["bytes"] if entry["bytes"] is not None else Path(entry["path"]).read_bytes()
        return content

    def name(self, row: int) -> str:
        """Return the position of an image for messages."""
        return f"in row {row + 1} of {self.origin}"

    def blocks(self) -> Tensor | None:
        """Return None, because all images are local."""
        return None

    def origins(self, rows: Tensor) -> Origins:
        """Return the origins of the images at `rows` ([samples] int64)."""
        return Origins.of_file(self.place, rows + 1)

    def marks(self) -> Marks:
        """Return the position of each image, and a number that depends on the files, because reading all takes long."""
        digest = xxhash.xxh3_64_intdigest("".join(place.digest() for place in self.places).encode())
        positions = np.arange(len(self.rows), dtype=np.uint64)
        return Marks((self.place,), np.zeros(len(self.rows), np.int64), positions ^ np.uint64(digest))


def _files_of(rows: Any, field: str) -> list[Location]:
    return [place(entry["filename"], "", field) for entry in rows.cache_files]


def read_saved(data: HuggingFaceData, root: str, target: Target, missing: MissingTargets) -> Table:
    """Return a saved dataset with its splits.

    Args:
        data: The dataset and its columns.
        root: Folder that relative paths are resolved against.
        target: Kind of target, which determines the required columns.
        missing: What to do with rows without a target.

    Raises:
        DataError: There is no dataset, or a column is missing or does not match the spec.
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
    """Return rows and path of each split by its standard name, and notes about ignored splits."""
    import datasets  # noqa: PLC0415 - takes seconds; only jobs with such data need it

    folder = find(data.path, root, f"{_FIELD}.path")
    try:
        with folder.reading():
            found = datasets.load_from_disk(folder.name)
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{_FIELD}.path: {folder.name} is not a dataset written by save_to_disk: {error}") from error
    if isinstance(found, datasets.Dataset):
        return {"train": (found, folder.name)}, ()
    own = find_splits(found, f"{_FIELD}.path: {folder.name}")
    if "train" not in own:
        raise DataError(f"{_FIELD}.path: {folder.name} has no split called train; it has {', '.join(found)}")
    notes = note_ignored_splits([name for name in found if name not in own.values()], f"{_FIELD}.path: {folder.name}")
    return {split: (found[name], folder.child(name).name) for split, name in own.items()}, notes


@dataclass(frozen=True)
class _Split:
    """A split with its targets.

    Attributes:
        rows: All rows of the split.
        origin: Name of the split for messages.
        place: Path of the split.
        kept: Indices of the rows with a target ([samples] int64).
        targets: Numbers ([samples, targets] float64), classes ([samples] int64) or labels; None if there are no
            targets.
        inputs: Values of the features ([samples, features] float64), if those are the inputs.
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
    """Reads the splits. The training split must be first, because it determines classes and units."""

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
        """Notes about the data."""
        return [*self._notes, *self._gaps.notes()]

    def read(self, rows: Any, origin: str, place: str) -> _Split:
        """Read the targets of a split, and its inputs if they are numbers.

        Args:
            rows: The split.
            origin: Name of the split for messages.
            place: Path of the split.

        Raises:
            DataError: It is empty, or a column is missing or has an unsupported type.
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
                "remove splits without labels, such as the test split of a contest",
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
                texts, notes = without_blank_texts(store, split.origin)
                self._notes += notes
                return texts
            return chosen(store, split.kept, self._indices(split), split.origins)
        targets = self._indices(split)
        if split.inputs is not None:
            return Samples(split.inputs, targets, self._names(split), split.origins, self._columns.units)
        name = data.image or ""
        images = SavedImages(_encoded(split.rows, name, split.origin), name, split.origin, split.place)
        return Pictures(images, split.kept, targets, data, f"{_FIELD}.image")

    def _names(self, split: _Split) -> tuple[str, ...] | None:
        """Return the names of the features; None if some columns contain several features."""
        names = self._data.features or []
        return tuple(names) if split.inputs is not None and split.inputs.shape[1] == len(names) else None

    def _indices(self, split: _Split) -> Tensor:
        """Return the targets of a split, with labels converted to the indices of their classes."""
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
        """Return the rows with a target, and the targets."""
        name, place = self._data.label, Rows("row", origin)
        values, cells = self._read_numbers(rows, name, "label", origin)
        kept = np.arange(len(values))
        if values.shape[1] == 1:
            doubtful = np.flatnonzero(np.isnan(values[:, 0])).tolist()
            gaps = [row for row in doubtful if self._gaps.record_if_missing(cells[row].as_py(), place, row + 1)]
            kept = np.setdiff1d(kept, gaps)
        self._check_numbers(values, cells, name, "label", origin, kept)
        return torch.from_numpy(kept), torch.from_numpy(values[kept])

    def _labels(self, rows: Any, origin: str) -> tuple[Tensor, Tensor | Labels]:
        """Return the rows with a target, and their classes or labels."""
        name, place = self._data.label, Rows("row", origin)
        known = getattr(rows.features[name], "names", None)
        if known is not None:
            self.classes = self.classes or tuple(known)
            if tuple(known) != self.classes:
                raise DataError(
                    f"{_FIELD}.label: {origin} has the classes {', '.join(known)}, unlike the training split"
                )
        labels, kept, classes = Labels(), array("q"), array("q")
        for row, value in enumerate(_values(rows, name)):
            # The library writes -1 for an unknown class.
            if self._gaps.record_if_missing(None if known and value == -1 else value, place, row + 1):
                continue
            if known is not None and 0 <= value < len(known):
                classes.append(value)
            elif known is None and isinstance(value, str | int | float):
                labels.add(value)
            else:
                what = "text or an integer" if known is None else f"a class from 0 to {len(known) - 1}"
                need = (f"{_FIELD}.label", f"column {name!r} must hold {what}")
                self.faults.add(need, place, [(row + 1, value)], "write the name or number of the class")
                continue
            kept.append(row)
        return torch.tensor(kept, dtype=torch.int64), labels if known is None else torch.tensor(classes)

    def _read_features(self, rows: Any, origin: str, kept: Tensor) -> Tensor:
        """Return the features of some rows ([kept, features] float64)."""
        columns = []
        for name in self._data.features or []:
            values, cells = self._read_numbers(rows, name, "features", origin)
            self._check_numbers(values, cells, name, "features", origin, kept.numpy())
            columns.append(values[kept.numpy()])
        return torch.from_numpy(np.concatenate(columns, axis=1))

    def _read_numbers(self, rows: Any, column: str, key: str, origin: str) -> tuple[Array, Any]:
        """Return a column of numbers or lists of numbers ([rows, width] float64), and its flattened cells."""
        import pyarrow as pa  # noqa: PLC0415 - only jobs with such data need it

        batches = rows.select_columns([column]).with_format("arrow").iter(_ROWS)
        parts = [_flatten(batch.column(column).combine_chunks()) for batch in batches]
        if not all(parts) or len({width for _, width in filter(None, parts)}) > 1:
            raise DataError(
                f"{_FIELD}.{key}: {column!r} of {origin} must contain numbers, or lists of numbers of one length"
            )
        cells = pa.chunked_array([flat for flat, _ in filter(None, parts)])
        self._columns.check({column: cells.type}, origin, f"{_FIELD}.{key}")
        numbers = np.concatenate([self._columns.to_numbers(column, chunk) for chunk in cells.chunks])
        return numbers.reshape(len(rows), -1), cells

    def _check_numbers(self, values: Array, cells: Any, column: str, key: str, origin: str, kept: Array) -> None:
        """Record the cells of some rows that are not finite 32-bit numbers."""
        places = np.arange(values.size).reshape(values.shape)[kept].flatten()
        unusable = places[find_unusable(values[kept].flatten())]
        shown = [cells[int(index)].as_py() for index in unusable[:LOOKED_AT]]
        rows = Rows("row", origin)
        self.faults.add_numbers(column, f"{_FIELD}.{key}", rows, unusable // values.shape[1] + 1, shown)


def _flatten(values: Any) -> tuple[Any, int] | None:
    """Return the flattened values of an Arrow column, and their number per row; None if it differs between rows."""
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
        raise DataError(f"{_FIELD}.image: {column!r} of {origin} contains {rows.features[column]}, not images")
    # The dataset may have been saved with an output format, such as tensors or fewer columns, which must not apply
    # here.
    return rows.with_format(None).select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _need(rows: Any, column: str, key: str, origin: str) -> None:
    if column not in rows.column_names:
        raise missing_column(f"{_FIELD}.{key}", origin, column, rows.column_names)
