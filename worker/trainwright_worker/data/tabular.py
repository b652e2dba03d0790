"""Reads tables in CSV or Parquet files, with numbers as features and numbers or classes as the target."""

import re
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from trainwright.api.spec.preparation import MissingTargets
from trainwright.api.spec.sources import CsvData, ParquetData
from trainwright_worker.data.cells import LOOKED_AT, Faults, Gaps, Rows, find_unusable, parse_numbers
from trainwright_worker.data.columns import (
    CLASS_KINDS,
    Columns,
    Units,
    add_faults,
    check_alike,
    choose_features,
    kind_of,
)
from trainwright_worker.data.csv_rows import csv_rows
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find, find_all

_AT_ONCE: Final = 256
"""Rows of a CSV file that are converted to numbers at once. With more, their texts no longer fit in the CPU's cache."""
_PARTITION: Final = re.compile(r"\w+=[^=]*")
"""Name of a folder that Spark and Hive write for the rows with a value of a column."""
_ROW_NUMBER: Final = re.compile(r"__index_level_\d+__")
"""Name of a column in which pandas stores row numbers."""


def read_table(data: CsvData | ParquetData, root: str, *, classify: bool, missing: MissingTargets) -> Table:
    """Return the table in CSV or Parquet files.

    Args:
        data: The files and columns.
        root: Folder that relative paths are resolved against.
        classify: Whether to read the target as a class, which may be any text; otherwise it is a number.
        missing: What to do with rows without a target.

    Raises:
        DataError: A file, a column or a value does not match the spec; shows the rows of invalid values.
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
    """The rows of a split that have been read.

    Attributes:
        labels: Labels, if the target is a class.
    """

    def __init__(self) -> None:
        self.labels = Labels()
        self._inputs = list[Array]()
        self._targets = list[Array]()
        self._rows = dict[str, list[Array]]()

    def __len__(self) -> int:
        """Return the number of rows."""
        return sum(map(len, self._inputs))

    def add(self, file: str, rows: Array, inputs: Array, targets: Array | Sequence[object]) -> None:
        """Add rows of a file.

        Args:
            file: Name of the file.
            rows: Numbers of the rows ([rows] int64).
            inputs: Features of the rows ([rows, features] float64).
            targets: Targets of the rows ([rows] float64), or their labels.
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
            field: Field of the spec that error messages name.
            features: Names of the features.
            units: Arrow types of each column of times.
        """
        inputs = torch.from_numpy(np.concatenate(self._inputs))
        self._inputs.clear()  # A large table may not fit in memory twice.
        if classes is not None:
            targets = self.labels.index(classes, field)
        else:
            targets = torch.from_numpy(np.concatenate(self._targets)).unsqueeze(1)
        files = [(file, torch.from_numpy(np.concatenate(rows))) for file, rows in self._rows.items()]
        return Samples(inputs, targets, features, Origins.of_files(files), units)


class _TableReader:
    """Reads one split after the other; the first training file determines columns and types for all files.

    Attributes:
        field: Field of the spec that describes the source.
        features: The feature columns, in the order of the first file.
        faults: Invalid cells.
        columns: Types of Parquet columns.
        notes: Notes about the data for the user.
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
        """Notes about the data for the user."""
        return [*self._left, *self._gaps.notes()]

    def read(self, path: str, key: str) -> _RowsRead:
        """Return the rows of a path.

        Args:
            path: The path in the spec.
            key: Field of the source with this path.

        Raises:
                DataError: A file does not exist, is damaged, or does not have the required columns.
        """
        field = f"{self.field}.{key}"
        found = _RowsRead()
        if isinstance(self._data, CsvData):
            place = _one_file(path, self._root, field)
            self._read_csv(place, self._data, found)
        else:
            places = find_all(path, self._root, field, (".parquet",))
            place = places[0]
            self._check_partitions(places, field)
            for other in places:
                self._read_parquet(other, self._data, found)
        if not len(found):
            self.faults.check()
            without = " with a target" if self._gaps.count else ""
            raise DataError(f"{field}: {place.name} has no rows{without}")
        return found

    def _check_partitions(self, places: list[Location], field: str) -> None:
        """Note columns that are only in the names of folders, such as year=2024; refuse them as the target."""
        folders = {part for place in places for part in Path(place.path).parts[:-1] if _PARTITION.fullmatch(part)}
        names = sorted({folder.partition("=")[0] for folder in folders})
        if self._data.target in names:
            raise DataError(
                f"{self.field}.target: {self._data.target!r} is only in the names of folders ({min(folders)}), which are not read",
                "write it as a column of the files",
            )
        if names:
            self._left[
                f"{field}: {', '.join(names)} in the names of folders (such as {min(folders)}) is not read as a feature"
            ] = None

    def _choose_features(self, names: Sequence[str], location: Location, left: Collection[str]) -> None:
        """Check that a file has the same features as the first file, whose order applies to all files."""
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
                f"list the columns that all files have in {self.field}.features",
            )

    def _read_csv(self, location: Location, data: CsvData, found: _RowsRead) -> None:
        with location.open() as file, location.reading():
            rows = csv_rows(file, location, data.delimiter)
            _, names = next(rows)
            _check_delimiter(names, data, location, self.field)
            self._choose_features(names, location, left=("",))
            if data.features is None and "" in names:
                self._left[
                    f"{self.field}.features: {location.name} has a column without a name, such as the row numbers of "
                    "pandas, which is ignored; to use it, name it in the file's first line"
                ] = None
            while some := list(islice(rows, _AT_ONCE)):
                self._add_csv(some, names, location, found)

    def _add_csv(
        self, some: list[tuple[int, list[str]]], names: list[str], location: Location, found: _RowsRead
    ) -> None:
        place, target = Rows("line", location.name), names.index(self._data.target)
        some = [(line, row) for line, row in some if not self._gaps.record_if_missing(row[target], place, line)]
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
        """Check that the columns of a file and their types match those of the first file."""
        data = self._data
        written = (schema.pandas_metadata or {}).get("index_columns", [])
        index = [name for name in schema.names if name in written or _ROW_NUMBER.fullmatch(name)]
        self._choose_features(schema.names, location, index)
        if data.features is None:
            for name in (name for name in index if name != data.target):
                self._left[
                    f"{self.field}.features: the column {name!r} is an index that pandas wrote, and is ignored; to use "
                    "it as a feature, list it"
                ] = None
        numeric = self.features if self._classify else [*self.features, data.target]
        self.columns.check({name: schema.field(name).type for name in numeric}, location.name, location.field)
        kind = kind_of(schema.field(data.target).type)
        if self._classify and kind not in CLASS_KINDS:
            raise DataError(
                f"{self.field}.target: column {data.target!r} of {location.name} holds {kind}, which cannot be classes",
                "write the classes as texts or integers",
            )
        if self._classify and kind:
            self._kind_of_classes = self._kind_of_classes or (kind, location.name)
            first, origin = self._kind_of_classes
            check_alike(first, kind, f"{self.field}.target: column {data.target!r}", origin, location.name)

    def _add_parquet(self, batch: Any, first: int, location: Location, found: _RowsRead) -> None:
        place, target = Rows("row", location.name), self._data.target
        numbers = np.arange(first, first + len(batch))
        values = batch.column(target).to_pylist()
        kept = [
            index for index, value in enumerate(values) if not self._gaps.record_if_missing(value, place, first + index)
        ]
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
    """Return the single file of a path, which must not be a pattern or a folder."""
    found = None if "*" in path else find(path, root, field)
    if found is None or found.is_folder():
        raise DataError(
            f"{field}: csv takes one file, not {path}", "join the files, or use Parquet, which supports several files"
        )
    return found


def _check_delimiter(names: list[str], data: CsvData, location: Location, field: str) -> None:
    """Check that the header does not use another delimiter."""
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
