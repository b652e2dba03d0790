"""Tables: numbers in the feature columns, numbers or class names in the target column; CSV or Parquet."""

import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import torch

from trainwright.api.spec.preparation import MissingTargets
from trainwright.api.spec.sources import CsvData, ParquetData
from trainwright_worker.data.cells import LOOKED_AT, Faults, Gaps, Rows, find_unusable, parse_numbers
from trainwright_worker.data.columns import Columns, Units, add_faults, check_alike, choose_features, kind_of
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, csv_rows, find, find_all

_AT_ONCE: Final = 256
"""How many rows of a CSV file are turned into numbers at once: with more, their texts leave the processor's cache."""
_ROW_NUMBER: Final = re.compile(r"__index_level_\d+__")
"""What pandas calls the column in which it writes the numbers of the rows."""


def read_table(data: CsvData | ParquetData, root: str, *, classify: bool, missing: MissingTargets) -> Table:
    """Return the table in files of CSV or Parquet.

    Args:
        data: Which files and columns.
        root: Folder at which relative paths start.
        classify: Read the target as a class, whose names may be any text; otherwise as a number.
        missing: What becomes of rows without a target.

    Raises:
        DataError: A file, a column or a value is not as the spec says; shows the rows of all such values.
    """
    reader = _TableReader(data, root, missing, classify=classify)
    train = reader.read(data.path, "path")
    test = None if data.test_path is None else reader.read(data.test_path, "testPath")
    validation = None if data.validation_path is None else reader.read(data.validation_path, "validationPath")
    reader.faults.check()
    classes = None
    if classify:
        train.labels.check_names(data.target, f"{reader.field}.target")
        classes = train.labels.classes()

    def samples(rows: _RowsRead, key: str) -> Samples:
        return rows.samples(classes, f"{reader.field}.{key}", tuple(reader.features), reader.columns.units)

    return Table(
        samples(train, "target"),
        classes,
        None if test is None else samples(test, "testPath"),
        None if validation is None else samples(validation, "validationPath"),
        notes=(*reader.notes, *train.labels.notes(f"{reader.field}.target")),
    )


class _RowsRead:
    """The rows of a split as they are read.

    Attributes:
        labels: Labels, if the target is a class.
    """

    def __init__(self) -> None:
        self.labels = Labels()
        self._inputs = list[Array]()
        self._targets = list[Array]()
        self._rows = dict[str, list[Array]]()

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self._inputs))

    def add(self, file: str, rows: Array, inputs: Array, targets: Array | Sequence[object]) -> None:
        """Take rows of a file.

        Args:
            file: Its name.
            rows: Their numbers ([rows] int64).
            inputs: Their features ([rows, features] float64).
            targets: Their targets ([rows] float64), or the values that spell their classes.
        """
        self._rows.setdefault(file, []).append(rows)
        self._inputs.append(inputs)
        if isinstance(targets, np.ndarray):
            self._targets.append(targets)
        else:
            for target in targets:
                self.labels.add(target)

    def samples(self, classes: tuple[str, ...] | None, field: str, features: tuple[str, ...], units: Units) -> Samples:
        """Return all rows as samples.

        Args:
            classes: The classes; None if the targets are numbers.
            field: Field of the spec that led here.
            features: Names of the features.
            units: Columns that hold times.
        """
        inputs = torch.from_numpy(np.concatenate(self._inputs))
        self._inputs.clear()  # A large table hardly fits into memory twice.
        if classes is not None:
            targets = self.labels.index(classes, field)
        else:
            targets = torch.from_numpy(np.concatenate(self._targets)).unsqueeze(1)
        files = [(file, torch.from_numpy(np.concatenate(rows))) for file, rows in self._rows.items()]
        return Samples(inputs, targets, features, Origins.of_files(files), units)


class _TableReader:
    """Reads one split after the other; the first file of the training data decides what the columns of all mean.

    Attributes:
        field: Field of the spec that describes the source.
        features: Columns to learn from, in the order of the first file.
        faults: Cells that are refused.
        columns: What the columns of Parquet hold.
        notes: What a person should know of the data.
    """

    def __init__(self, data: CsvData | ParquetData, root: str, missing: MissingTargets, *, classify: bool) -> None:
        self.field = "spec.dataset.csv" if isinstance(data, CsvData) else "spec.dataset.parquet"
        self.faults = Faults()
        self.columns = Columns(self.field)
        self._data = data
        self._root = root
        self._classify = classify
        self._gaps = Gaps(missing, self.faults, f"{self.field}.target", data.target)
        self.features = list[str]()
        self._first = ""
        self._kind_of_classes: tuple[str, str] | None = None
        self._left = dict[str, None]()

    @property
    def notes(self) -> list[str]:
        """What a person should know of the data."""
        return [*self._left, *self._gaps.notes()]

    def read(self, path: str, key: str) -> _RowsRead:
        """Return the rows of a path.

        Args:
            path: As the spec gives it.
            key: Field of the source that gives it.

        Raises:
            DataError: A file is not there, is damaged, or has other columns than it must.
        """
        field = f"{self.field}.{key}"
        found = _RowsRead()
        if isinstance(self._data, CsvData):
            place = _one_file(path, self._root, field)
            self._read_csv(place, self._data, found)
        else:
            places = find_all(path, self._root, field, (".parquet",))
            place = places[0]
            for other in places:
                self._read_parquet(other, self._data, found)
        if not len(found):
            self.faults.check()
            without = " with a target" if self._gaps.count else ""
            raise DataError(f"{field}: {place.name} has no rows{without}")
        return found

    def _choose_features(self, names: Sequence[str], location: Location, left: Collection[str]) -> None:
        """See that a file has the features of the first, in whatever order: a model knows them by their places there."""
        data = self._data
        features = choose_features(names, data.target, data.features, location.name, self.field, left)
        if not self._first:
            self.features, self._first = features, location.name
        different = {*self.features} ^ {*features}
        if different:
            name = min(different)
            poorer, richer = (location.name, self._first) if name in self.features else (self._first, location.name)
            raise DataError(
                f"{location.field}: {poorer} has no column {name!r}, which {richer} has",
                f"name the columns that all files have in {self.field}.features",
            )

    def _read_csv(self, location: Location, data: CsvData, found: _RowsRead) -> None:
        with location.open() as file, location.reading():
            rows = csv_rows(file, location, data.delimiter)
            _, names = next(rows)
            _check_delimiter(names, data, location, self.field)
            self._choose_features(names, location, left=("",))
            if data.features is None and "" in names:
                self._left[
                    f"{self.field}.features: {location.name} has a column without a name, as pandas writes the numbers of "
                    "the rows, which is left out; to keep it, name it in the file's first line"
                ] = None
            while some := list(islice(rows, _AT_ONCE)):
                self._add_csv(some, names, location, found)

    def _add_csv(
        self, some: list[tuple[int, list[str]]], names: list[str], location: Location, found: _RowsRead
    ) -> None:
        place, target = Rows("line", location.name), names.index(self._data.target)
        some = [(line, row) for line, row in some if not self._gaps.holds(row[target], place, line)]
        if not some:
            return
        lines = np.array([line for line, _ in some])
        columns = list(zip(*(row for _, row in some), strict=True))

        def numbers(name: str) -> Array:
            texts = columns[names.index(name)]
            values = parse_numbers(texts)
            unusable = find_unusable(values)
            shown = [texts[index] for index in unusable[:LOOKED_AT].tolist()]
            self.faults.add_numbers(name, location.field, place, lines[unusable], shown)
            return values

        inputs = np.stack([numbers(name) for name in self.features], axis=1)
        found.add(location.name, lines, inputs, columns[target] if self._classify else numbers(self._data.target))

    def _read_parquet(self, location: Location, data: ParquetData, found: _RowsRead) -> None:
        from pyarrow import ArrowInvalid  # noqa: PLC0415 - only jobs with Parquet files need it
        from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

        with location.open() as file, location.reading():
            try:
                parquet = ParquetFile(file)
                self._check_parquet(parquet.schema_arrow, location)
                first = 1
                for batch in parquet.iter_batches(columns=[*self.features, data.target]):
                    self._add_parquet(batch, first, location, found)
                    first += len(batch)
            except (ArrowInvalid, UnicodeDecodeError) as error:
                raise DataError(f"{location.field}: cannot read {location.name} as Parquet: {error}") from error

    def _check_parquet(self, schema: Any, location: Location) -> None:
        """See that the columns of a file are those of the first, and hold what those held."""
        data = self._data
        written = (schema.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in schema.names if name in written or _ROW_NUMBER.fullmatch(name)]
        self._choose_features(schema.names, location, index)
        if data.features is None:
            for name in (name for name in index if name != data.target):
                self._left[
                    f"{self.field}.features: the column {name!r} is an index that pandas wrote and left out; list it to "
                    "learn from it"
                ] = None
        numeric = self.features if self._classify else [*self.features, data.target]
        self.columns.check({name: schema.field(name).type for name in numeric}, location.name, location.field)
        kind = kind_of(schema.field(data.target).type)
        if self._classify and kind:
            self._kind_of_classes = self._kind_of_classes or (kind, location.name)
            first, origin = self._kind_of_classes
            check_alike(first, kind, f"{self.field}.target: column {data.target!r}", origin, location.name)

    def _add_parquet(self, batch: Any, first: int, location: Location, found: _RowsRead) -> None:
        place, target = Rows("row", location.name), self._data.target
        numbers = np.arange(first, first + len(batch))
        values = batch.column(target).to_pylist()
        kept = [index for index, value in enumerate(values) if not self._gaps.holds(value, place, first + index)]
        if len(kept) < len(batch):
            batch, numbers, values = batch.take(kept), numbers[kept], [values[index] for index in kept]
        if not kept:
            return
        columns = {name: self.columns.to_numbers(name, batch.column(name)) for name in self.features}
        targets: Array | list[object] = values
        wanted = dict(columns)
        if not self._classify:
            wanted[target] = targets = self.columns.to_numbers(target, batch.column(target))
        add_faults(self.faults, wanted, batch, location.field, place, numbers)
        found.add(location.name, numbers, np.stack(list(columns.values()), axis=1), targets)


def _one_file(path: str, root: str, field: str) -> Location:
    """Return the file that a path leads to, which a pattern or a folder does not."""
    found = None if "*" in path else find(path, root, field)
    if found is None or found.is_folder():
        raise DataError(
            f"{field}: csv takes one file, not {path}", "join the files, or write Parquet, which takes many"
        )
    return found


def _check_delimiter(names: list[str], data: CsvData, location: Location, field: str) -> None:
    """Refuse a header that another character divides."""
    for other in ";\t|,":
        if (
            len(names) == 1
            and data.target in (name.strip() for name in names[0].split(other))
            and names != [data.target]
        ):
            raise DataError(
                f"{field}.delimiter: {data.delimiter!r}, but the header of {location.name} is {names[0]!r}",
                f"set it to {other!r}",
            )
